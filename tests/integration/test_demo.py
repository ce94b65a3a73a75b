"""The demo end to end with a shortened run: interrupted while it trains, taken up again, then left as it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nanotron_zagreus.resources import find_config

pytestmark = pytest.mark.integration

STEPS = 24
COMMAND = (sys.executable, "-m", "examples.demo.run_demo")


def test_an_interrupted_demo_goes_on_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    config = _shortened_config(tmp_path / "short.yaml")

    stopped = _run_until_training_then_interrupt(tmp_path, config)
    assert stopped.returncode == 1, stopped.stderr
    assert "interrupted during step 5, train" in stopped.stderr
    assert "make demo" in stopped.stderr
    journal = json.loads((tmp_path / "demo_output" / "demo.json").read_text())
    assert list(journal["seconds"]) == ["corpus", "tokenizer", "tokenize", "check"]

    finished = _run(tmp_path, config)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("already done, kept") == 4
    assert "unigram entropy" in finished.stdout
    saved = [path.name for path in (tmp_path / "demo_output" / "checkpoints").iterdir() if path.name.isdigit()]
    shown = sorted((tmp_path / "demo_output" / "progression").glob("*/results_*.json"))
    assert len(saved) >= STEPS // 4 and sorted(path.parent.name for path in shown) == sorted(5 * saved)
    for made in (
        "progression.png",
        "hf/model.safetensors",
        "hf/tokenizer.json",
        f"checkpoints/{STEPS}/model_config.json",
    ):
        assert (tmp_path / "demo_output" / made).is_file()
    losses = _losses(tmp_path)
    assert set(losses) == set(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1]

    kept = _run(tmp_path, config)
    assert kept.returncode == 0
    assert kept.stdout.count("already done, kept") == 9


def _shortened_config(path: Path) -> Path:
    """Write the demo's own configuration with fewer steps."""
    config = yaml.safe_load(find_config("smollm2/zagreus_tiny.yaml").read_text())
    config["tokens"]["train_steps"] = STEPS
    config["checkpoints"]["checkpoint_interval"] = 4
    config["data_stages"][1]["start_training_step"] = 17
    config["optimizer"]["learning_rate_scheduler"].update(
        lr_warmup_steps=2, lr_decay_starting_step=16, lr_decay_steps=8
    )
    config["logging"]["iteration_step_info_interval"] = 1
    path.write_text(yaml.safe_dump(config))
    return path


def _run(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, str(config)], cwd=folder, capture_output=True, text=True, check=False)


def _run_until_training_then_interrupt(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Send what Ctrl-C sends, SIGINT to the whole process group, once a few steps are trained."""
    process = subprocess.Popen(
        [*COMMAND, str(config)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 400
    while len(_losses(folder)) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _losses(folder: Path) -> dict[int, float]:
    file = folder / "demo_output" / "checkpoints" / "metrics.jsonl"
    if not file.exists():
        return {}
    # The last line may be half written while training runs.
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    records = [json.loads(line) for line in lines]
    return {record["iteration"]: record["lm_loss"] for record in records if "lm_loss" in record}
