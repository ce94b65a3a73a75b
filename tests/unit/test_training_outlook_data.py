"""What `zagreus check` and `zagreus slurm` refuse of data that is here: what `zagreus train` would refuse."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import Config, dump_config
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.data_fixtures import make_config, write_source

AUTO = {"resume_checkpoint_path": "auto"}
SITE = "{account: mii, partition: boost, time_limit: 1-00:00:00, venv: /opt/venv, hf_home: null}"


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Return a maker of configurations of one source of 10 windows; 20 steps of 4 pass over it 8 times."""
    monkeypatch.chdir(tmp_path)
    folder = str(write_source(tmp_path / "a", [10]))

    def make(**changes: dict) -> Config:
        return make_config([{"dataset": {"dataset_folder": folder}}], **changes)

    return make


def check(config: Config) -> int:
    Path("run.yaml").write_text(dump_config(config))
    return run(["check", "--config-file", "run.yaml"])


@pytest.fixture
def obstacles(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a runner of `zagreus slurm render` with more options; it returns the obstacles that were printed."""

    def found(config: Config, *options: str) -> str:
        Path("run.yaml").write_text(dump_config(config))
        Path("slurm_site.yaml").write_text(SITE)
        capsys.readouterr()
        assert run(["slurm", "render", "--config-file", "run.yaml", "--nodes=1", "--gpus-per-node=1", *options]) == 0
        return "\n".join(line for line in capsys.readouterr().err.splitlines() if line.startswith("obstacle "))

    return found


def vocabulary(config: Config, size: int) -> Config:
    model = dataclasses.replace(config.model.model_config, vocab_size=size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, model_config=model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zagreus": {"max_source_epochs": 4}}, "8.00 times"),
        ({"tokenizer": {"tokenizer_name_or_path": "another"}}, "tokenizer_names"),
    ],
)
def test_data_that_training_refuses_is_refused_before(
    changes: dict,
    message: str,
    configure: Callable[..., Config],
    obstacles: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure(**changes)
    assert check(config) == 2
    assert message in capsys.readouterr().err
    assert message in obstacles(config)


def test_tokens_outside_the_vocabulary_are_refused(
    configure: Callable[..., Config], obstacles: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = vocabulary(configure(), 50)
    assert check(config) == 2
    assert "vocab_size is 50" in capsys.readouterr().err
    assert "vocab_size is 50" in obstacles(config)


def test_a_shard_that_is_not_whole_is_refused(
    configure: Callable[..., Config], obstacles: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure()
    assert check(config) == 0
    (shard,) = Path("a").glob("*.ds")
    shard.write_bytes(shard.read_bytes()[:-2])
    assert check(config) == 2
    assert "not a whole shard" in capsys.readouterr().err
    assert "not a whole shard" in obstacles(config)


def test_data_that_is_not_all_here_is_no_reason_to_refuse(
    configure: Callable[..., Config], obstacles: Callable[..., str], tmp_path: Path
) -> None:
    folders = {"dataset_folder": [str(tmp_path / "a"), str(tmp_path / "elsewhere")], "dataset_weights": [0.9, 0.1]}
    config = make_config([{"dataset": folders}], zagreus={"max_source_epochs": 1})
    assert check(config) == 0
    assert "elsewhere" in obstacles(config) and "times" not in obstacles(config)


def test_data_that_jobs_before_the_training_write_is_not_judged(
    configure: Callable[..., Config], obstacles: Callable[..., str]
) -> None:
    config = configure(zagreus={"max_source_epochs": 4})
    Path("text.jsonl").write_text("")
    assert "8.00 times" in obstacles(config)
    assert "times" not in obstacles(config, f"--tokenize=text.jsonl={config.data_stages[0].data.dataset.folders[0]}")
    assert "times" not in obstacles(config, "--after=4711")


def test_how_often_a_run_that_goes_on_repeats_its_data_follows_from_its_checkpoint(
    configure: Callable[..., Config], obstacles: Callable[..., str]
) -> None:
    """Its ten steps so far drew less, with another global batch: 5 passes instead of 8."""
    zagreus = {"max_source_epochs": 6, "accept_changed_batch": True}
    config = configure(zagreus=zagreus, checkpoints=AUTO)
    assert check(config) == 2
    write_descriptions(configure(tokens={"micro_batch_size": 1}), 10)
    assert check(config) == 0
    assert check(configure(zagreus={**zagreus, "max_source_epochs": 4}, checkpoints=AUTO)) == 2
    assert "times" not in obstacles(config)
    fresh = configure(zagreus=zagreus)
    assert check(fresh) == 2
    assert "times" not in obstacles(fresh), "a job resumes by itself"
    assert check(vocabulary(config, 50)) == 2


def test_check_reads_the_data_without_torch(configure: Callable[..., Config]) -> None:
    assert check(configure()) == 0
    program = (
        "import sys\nfrom nanotron_zagreus.cli.app import run\n"
        "assert run(['check', '--config-file', 'run.yaml']) == 0\n"
        "assert 'nanotron_zagreus.data.mixture' in sys.modules\n"
        "assert not {'torch', 'nanotron', 'transformers', 'datatrove'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
