"""Filling a template changes values only, and the shell reads exactly the value that was meant."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.resources import resource_folder
from nanotron_zagreus.slurm.template import fill, read_template

TEMPLATE = """#!/bin/bash
#SBATCH --nodes=8
#SBATCH --account=YOUR_ACCOUNT       # whose hours
NAME="a b"                           # a name
EMPTY=

set -uo pipefail
NAME=untouched
#SBATCH --nodes=untouched
"""
JOBS = sorted(path.stem for path in resource_folder("slurm").glob("*.sbatch"))


def test_values_are_replaced_and_comments_stay() -> None:
    text = fill(TEMPLATE, {"nodes": "2", "account": "mii"}, {"NAME": "x", "EMPTY": "y z"}, ["--exclusive"])
    assert text == TEMPLATE.replace("--nodes=8", "--nodes=2").replace(
        "YOUR_ACCOUNT       #", "mii                #"
    ).replace('NAME="a b"                           #', "NAME=x                               #").replace(
        "EMPTY=", "EMPTY='y z'"
    ).replace("# whose hours\n", "# whose hours\n#SBATCH --exclusive\n")


def test_a_null_removes_an_option_and_nothing_else() -> None:
    text = fill(TEMPLATE, {"account": None}, {})
    assert text == re.sub(r"#SBATCH --account.*\n", "", TEMPLATE)


def test_an_unknown_name_is_our_own_mistake() -> None:
    with pytest.raises(KeyError, match="partition, OTHER"):
        fill(TEMPLATE, {"partition": "x"}, {"OTHER": "y"})


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x85\u2028\u2029"), max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_shell_reads_the_value_that_was_meant(value: str) -> None:
    script = fill(TEMPLATE, {}, {"EMPTY": value}).partition("set -uo")[0] + 'printf %s "$EMPTY"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode() == value


def test_four_templates_ship() -> None:
    assert JOBS == ["convert", "evaluate", "tokenize", "train"]


@pytest.mark.parametrize("job", JOBS)
def test_a_template_is_valid_bash_and_keeps_options_above_commands(job: str) -> None:
    text = read_template(job)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    lines = text.splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")], "sbatch stops at a command"


@pytest.mark.parametrize("job", JOBS)
def test_every_site_value_stands_in_the_marked_block(job: str) -> None:
    before, _, rest = read_template(job).partition("# ================ SITE")
    block, end, after = rest.partition("END OF SITE")
    assert end
    for unset in ("YOUR_ACCOUNT", "YOUR_PARTITION", "/path/to/venv", "/path/to/hf_home"):
        assert unset in block
    assert "YOUR_" not in before + after and "/path/to" not in before + after


def test_the_training_template_derives_what_the_published_script_got_wrong() -> None:
    """That one asked for 8 GPUs and started 4, had one fixed port, no task per node, and no requeue."""
    text = read_template("train")
    assert '--nproc_per_node="$gpus"' in text and "gpus=${SLURM_GPUS_ON_NODE" in text
    assert "#SBATCH --ntasks-per-node=1" in text
    assert "29400" not in text
    assert "#SBATCH --requeue" in text and "scontrol requeue" in text
    assert "zagreus check --config-file" in text and "--world-size $((nodes * gpus))" in text


def test_the_record_of_the_environment_holds_no_secret(tmp_path: Path) -> None:
    """What is recorded is a list of harmless names; a value of several lines is left out, one of its lines as well."""
    match = re.search(r"^list_environment\(\) \{.*?^\}$", read_template("train"), re.MULTILINE | re.DOTALL)
    assert match is not None
    secrets = {
        "HF_TOKEN": "secret1",
        "WANDB_API_KEY": "secret2",
        "AWS_SECRET_ACCESS_KEY": "secret3",
        "HTTPS_PROXY": "http://me:secret4@proxy",
        "DATABASE_PASSWD": "secret5",
        "MY_PAT": "ghp_secret6",
        "SSH_PRIVATE_KEY": "-----BEGIN\nSLURM_X=secret7\n-----END",
        "SLURM_JWT": "secret8",
        "NCCL_NOTE": "a\nPATH=secret9",
        "CUDA_API_KEY": "secret10",
    }
    harmless = {"SLURM_JOB_ID": "12", "NCCL_DEBUG": "INFO", "HF_HOME": "/opt/hf", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-uc", f"{match[0]}\nlist_environment"],
        env={**secrets, **harmless, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "secret" not in done.stdout
    assert {f"{name}={value}" for name, value in harmless.items()} <= set(done.stdout.splitlines())
    assert "PATH=/usr/bin:/bin" in done.stdout.splitlines()
