"""Evaluation without a network: any attempt to reach one ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_fixtures import LEADERBOARD, leaderboard_rows, write_data, write_hub_card, write_tiny_model

pytest.importorskip("lm_eval")

from nanotron_zagreus.evaluation.task_sources import TASKS_FOLDER

pytestmark = pytest.mark.integration

# Run by every Python process that has its folder on the path.
NO_NETWORK = """\
import os, socket

def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        os.write(2, f"network reached for: {address}\\n".encode())
        os._exit(97)
    return connect(self, address)

connect, socket.socket.connect = socket.socket.connect, refuse
socket.getaddrinfo = lambda host, *rest, **named: refuse(socket.socket(), host)
"""

PLAIN_LOAD = """\
import sys
from lm_eval.tasks import TaskManager

tasks = TaskManager(include_path=sys.argv[1], include_defaults=False).load(["leaderboard_pt"])["tasks"]
for name, task in sorted(tasks.items()):
    print(name, len(task.eval_docs), task.fewshot_docs() is not None)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain files of the leaderboard's data sets, with the cards that make hub copies of them."""
    rows = leaderboard_rows(2)
    folder = write_data(tmp_path_factory.mktemp("data"), rows)
    splits: dict[str, dict[str, list[str]]] = {}
    for path, split in rows:
        owner, name, *config = path.split("/")
        splits.setdefault(f"{owner}/{name}", {}).setdefault(config[0] if config else "default", []).append(split)
    for dataset, configs in splits.items():
        write_hub_card(folder / dataset, configs)
    return folder


def run_offline(tmp_path: Path, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with ``command`` in ``folder``, every connection refused and nothing cached."""
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )


def test_the_blockade_holds(tmp_path: Path) -> None:
    done = run_offline(tmp_path, ["-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9')"], tmp_path)
    assert done.returncode == 97 and "network reached for" in done.stderr


def test_a_suite_runs_without_network(data: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m", context=640)
    command = [
        "-c",
        "from nanotron_zagreus.cli.app import main; main()",
        "evaluate",
        str(model),
        "--suite",
        "leaderboard-pt",
        "--limit",
        "1",
    ]
    done = run_offline(tmp_path, [*command, "--data", str(data), "--output", "out", "--device", "cpu"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "m").glob("results_*.json"))) == len(LEADERBOARD)


def test_the_nine_tasks_load_by_plain_include_path_where_hub_copies_lie(data: Path, tmp_path: Path) -> None:
    """As `lm-eval --include_path …/tasks` does in the folder of copies; see the README of the task files."""
    done = run_offline(tmp_path, ["-c", PLAIN_LOAD, str(TASKS_FOLDER)], data)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == sorted(LEADERBOARD)
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"2"}
