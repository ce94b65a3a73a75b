"""A site file says what differs between clusters; what is unset or no time is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nanotron_zagreus.errors import InputError, MissingInputError
from nanotron_zagreus.resources import resource_folder
from nanotron_zagreus.slurm.site import Site, load_site, seconds_of_time_limit

FILLED = {"account": "mii", "partition": "boost", "time_limit": "4-00:00:00", "venv": "/opt/venv", "hf_home": None}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "slurm_site.yaml"
    path.write_text(yaml.safe_dump({**FILLED, **changes}))
    return path


def test_the_shipped_file_is_refused_until_it_is_filled_in(tmp_path: Path) -> None:
    shipped = resource_folder("slurm") / "site.yaml"
    with pytest.raises(InputError, match=r"account.*unset"):
        load_site(shipped)
    text = shipped.read_text(encoding="utf-8")
    filled = text.replace("YOUR_", "my-").replace("/path/to", "/shared")
    (tmp_path / "site.yaml").write_text(filled)
    site = load_site(tmp_path / "site.yaml")
    assert site.account == "my-ACCOUNT"
    assert site.modules[1] == "python/3.11"


def test_a_missing_file_says_how_to_write_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match=r"zagreus slurm site > slurm_site.yaml"):
        load_site(None)


@pytest.mark.parametrize(
    ("changes", "key_words"),
    [
        ({"partition": "YOUR_PARTITION"}, ["partition", "unset"]),
        ({"venv": "/path/to/venv"}, ["venv", "unset"]),
        ({"venv": "$WORK/venv"}, ["venv", "'$WORK/venv'", "not expanded"]),
        ({"hf_home": "~/hf"}, ["hf_home", "'~/hf'", "not expanded"]),
        ({"modules": ["YOUR_MODULE"]}, ["modules", "unset"]),
        ({"account": "a\nb"}, ["account", "one line"]),
        ({"account": ""}, ["account", "null"]),
        ({"time_limit": "soon"}, ["time_limit", "'soon'", "4-00:00:00"]),
        ({"time_limit": 240}, ["time_limit", "240", "text"]),
        ({"network_interface": "ib0, ib1"}, ["network_interface", "'ib0, ib1'", "ib0,ib1"]),
        ({"network_interface": "^docker"}, ["network_interface", "patterns"]),
        ({"max_requeues": -1}, ["max_requeues", "-1"]),
        ({"cpus_per_node": 0}, ["cpus_per_node", ">= 1"]),
        ({"cpu_partition_cores": 0}, ["cpu_partition_cores", ">= 1"]),
        ({"cpu_time_limit": "soon"}, ["cpu_time_limit", "'soon'"]),
        ({"directives": ["exclusive"]}, ["directives", "'exclusive'", "--exclusive"]),
        ({"directives": ["--x=1; rm"]}, ["directives"]),
        ({"directives": ["--time=00:10:00"]}, ["directives", "--time=00:10:00", "time_limit"]),
        ({"cpu_directives": ["--partition=x"]}, ["cpu_directives", "--partition=x", "cpu_partition"]),
        ({"directives": ["--no-requeue"]}, ["directives", "--no-requeue"]),
        ({"directives": ["--gres=tmpfs:100G"]}, ["directives", "--gres=tmpfs:100G", "gpu_type"]),
        ({"acount": "x"}, ["acount", "did you mean 'account'"]),
    ],
)
def test_a_mistake_names_file_and_field(changes: dict[str, object], key_words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_site(written(tmp_path, **changes))
    assert str(caught.value).startswith(str(tmp_path / "slurm_site.yaml"))
    assert all(word in str(caught.value) for word in key_words)


def test_what_does_no_harm_is_taken(tmp_path: Path) -> None:
    """Lists of interfaces, which gloo takes as well as NCCL; what scripts say anyway; a disk for jobs without a GPU."""
    site = load_site(
        written(tmp_path, network_interface="ib0,ib1", directives=["--requeue"], cpu_directives=["--gres=tmpfs:100G"])
    )
    assert site.network_interface == "ib0,ib1"
    assert site.directives_of("train") == ["--requeue"] and site.directives_of("convert") == ["--gres=tmpfs:100G"]


def test_a_time_without_quotes_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "slurm_site.yaml"
    path.write_text(yaml.safe_dump(FILLED).replace("4-00:00:00", "12:00:00"))
    with pytest.raises(InputError, match=r"12:00:00.*quote"):
        load_site(path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:30", 1830),
        ("1:00:00", 3600),
        ("4-00:00:00", 345_600),
        ("4-12", 388_800),
        ("0-00:10", 600),
        ("1-02:03:04", 93_784),
    ],
)
def test_slurms_forms_of_a_time(text: str, seconds: int) -> None:
    assert seconds_of_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0-00:00:00", "4d", "1:2:3:4", "-5", "1-", "UNLIMITED", "१०"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="time_limit"):
        seconds_of_time_limit(text)


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_days_hours_minutes_seconds(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    assert seconds_of_time_limit(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def test_partitions_and_gpu_types() -> None:
    site = Site(**FILLED)  # type: ignore[arg-type]
    assert site.partition_without_gpus == "boost"
    assert site.gres(8) == "gpu:8"
    other = Site(**FILLED, cpu_partition="serial", gpu_type="a100")  # type: ignore[arg-type]
    assert other.partition_without_gpus == "serial"
    assert other.gres(1) == "gpu:a100:1"
