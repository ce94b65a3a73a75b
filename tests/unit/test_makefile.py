"""`make venv` before it installs anything: which interpreters it takes, and what it says about torch's builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def interpreter(path: Path, version: tuple[int, int]) -> Path:
    """Write an interpreter that takes itself for another version, and can make no environment."""
    run = f'exec {sys.executable} -c "import sys; sys.version_info = {version}; $2"'
    return write_program(path, f'[ "$1" = -c ] || {{ echo "making an environment"; exit 1; }}\n{run}')


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("version", [(3, 10), (3, 13), (3, 14)])
def test_a_python_without_wheels_is_refused_with_the_way_out(version: tuple[int, int], tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", version)
    done = make(f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", "venv")
    assert done.returncode != 0
    for word in ("3.11 or 3.12", "make PYTHON=", "pip install"):
        assert word in done.stderr
    assert "making an environment" not in done.stdout


@pytest.mark.parametrize("version", [(3, 11), (3, 12)])
def test_a_python_with_wheels_is_taken(version: tuple[int, int], tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", version)
    assert "making an environment" in make(f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", "venv").stdout


def test_the_cpu_build_is_mentioned_where_nothing_says_which_is_wanted(tmp_path: Path) -> None:
    venv, index = tmp_path / "venv", "https://download.pytorch.org/whl/cpu"
    write_program(venv / "bin" / "python", "exit 0")

    def output(**environment: str) -> str:
        (venv / ".installed-from-lock").unlink(missing_ok=True)
        done = make(f"VENV={venv}", "venv", **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    if shutil.which("nvidia-smi") is None:
        assert index in output()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        assert index not in output(**{name: "https://example.org/simple"})
    write_program(tmp_path / "bin" / "nvidia-smi", "exit 0")
    assert index not in output(PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
