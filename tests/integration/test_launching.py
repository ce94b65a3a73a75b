"""Ways to start and end a run: `zagreus train`, run_train.py, two nodes without a shared file system."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import REPOSITORY, launch, launch_environment, read_events, read_losses, tiny_config, write_config

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.errors import InputError

pytestmark = pytest.mark.integration

ZAGREUS = [sys.executable, "-c", "from nanotron_zagreus.cli.app import main; main()"]


def test_zagreus_train_says_75_when_stopped_and_0_when_finished(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tokens__train_steps=4000, checkpoints__checkpoint_interval=100_000)
    config["checkpoints"]["resume_checkpoint_path"] = "auto"
    del config["data_stages"][1]
    file = write_config(tmp_path / "run.yaml", config)
    root = tmp_path / "checkpoints"
    command = [*ZAGREUS, "train", "--config-file", str(file)]
    process = subprocess.Popen(command, env=launch_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (root / "metrics.jsonl").exists() or not read_losses(root):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    (root / "STOP").touch()
    assert process.wait(timeout=60) == 75
    stopped = read_outcome(root)
    assert stopped is not None and stopped.why == "stopped" and stopped.checkpoint == str(root / str(stopped.step))
    config["tokens"]["train_steps"] = stopped.step + 3
    # The lr schedule depends on nothing but the step, so a shorter run is the same run.
    write_config(file, config)
    assert subprocess.run(command, env=launch_environment(), capture_output=True, check=False).returncode == 0
    finished = read_outcome(root)
    assert finished is not None and (finished.why, finished.step) == ("finished", stopped.step + 3)


def test_run_train_refuses_bad_input_in_one_line_and_shows_samples_when_asked(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tokens__train_steps=3)
    config["logging"]["log_level"] = "info"
    del config["data_stages"][1]
    file = write_config(tmp_path / "run.yaml", config)
    command = [sys.executable, "run_train.py", "--config-file", str(file), "--sanity-check-dataloader-interval", "2"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=launch_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sample of step 2:") == 4
    assert "engine: nanotron-" in done.stdout
    assert "train_steps=3" not in done.stdout, "the engine prints its own configuration"
    assert "iteration: 3 / 3 | consumed_tokens: 768 | time_per_iteration_ms: " in done.stdout
    config["parallelism"]["dp"] = 3
    config["tokens"]["batch_accumulation_per_replica"] = 1
    write_config(file, config)
    refused = subprocess.run(
        command, cwd=REPOSITORY, env=launch_environment(), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "dp x tp x pp = 3 x 1 x 1 = 3" in refused.stderr


def test_a_checkpoints_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    from nanotron_zagreus.training.run import run_training

    (tmp_path / "file").write_text("not a folder")
    config = tiny_config(tmp_path, checkpoints__checkpoints_path=str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        run_training(write_config(tmp_path / "run.yaml", config))


@pytest.mark.parametrize(
    ("override", "word"),
    [({"tracking": {"wandb": True}}, "wandb"), ({"attention": "flash_attn"}, "flash_attn")],
)
def test_a_package_that_is_asked_for_and_missing_is_named_first(
    override: dict[str, object], word: str, tmp_path: Path
) -> None:
    from nanotron_zagreus.training.run import run_training

    if importlib.util.find_spec(word) is not None:
        pytest.skip(f"{word} is installed here")
    config = tiny_config(tmp_path)
    config["zagreus"] |= override
    with pytest.raises(InputError, match=rf"{word}.*pip install"):
        run_training(write_config(tmp_path / "run.yaml", config))


def test_tensorboard_gets_upstreams_keys_and_documents_can_be_kept_apart(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(tmp_path)
    config["zagreus"] |= {"tracking": {"tensorboard": True}, "document_masking": True}
    launch([write_config(tmp_path / "run.yaml", config)], num_processes=1)
    events = EventAccumulator(str(tmp_path / "checkpoints" / "tensorboard")).Reload()
    assert {"lm_loss", "lr", "grad_norm", "tokens_per_sec_per_gpu", "consumed_tokens"} <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("lm_loss")]
    assert losses == pytest.approx(list(read_losses(tmp_path / "checkpoints").values()), rel=1e-6)
    assert losses[-1] < losses[0]


def test_replay_shows_the_samples_a_step_trained_on(tmp_path: Path) -> None:
    file = write_config(tmp_path / "run.yaml", tiny_config(tmp_path))
    command = [*ZAGREUS, "replay", "--config-file", str(file), "--step", "8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["sample"] for row in rows] == list(range(8))
    assert {row["stage"] for row in rows} == {"two"}
    assert all(len(row["tokens"]) == 33 for row in rows)


def test_replay_knows_the_batch_that_a_step_was_trained_with(tmp_path: Path) -> None:
    first = write_config(tmp_path / "first.yaml", tiny_config(tmp_path))
    data = tiny_config(
        tmp_path,
        checkpoints__resume_checkpoint_path=str(tmp_path / "checkpoints" / "10"),
        checkpoints__checkpoints_path=str(tmp_path / "second"),
        tokens__batch_accumulation_per_replica=2,
        tokens__train_steps=15,
    )
    data["zagreus"]["accept_changed_batch"] = True
    second = write_config(tmp_path / "second.yaml", data)
    launch([first, f"nan:12@0:{second}"], num_processes=1)
    (event,) = read_events(tmp_path / "second", "skipped_step")

    def windows(step: int) -> list[tuple[str, int]]:
        command = [*ZAGREUS, "replay", "--config-file", str(second), "--step", str(step), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [(row["stage"], row["window"]) for row in map(json.loads, done.stdout.splitlines())]

    assert [window for _, window in windows(12)] == [sample[4] for sample in event["samples"]]
    assert len(windows(12)) == 4 and len(windows(8)) == 8
    shutil.rmtree(tmp_path / "second" / "15")  # resumed, and not saved since
    assert [window for _, window in windows(12)] == [sample[4] for sample in event["samples"]]


def run_two_nodes(root: Path, config: Path, *, succeeds: bool = True) -> str:
    """Run two agents of one rank each, in folders of their own: nothing they write there is shared; return the logs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d"]
    command += [f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test", "-m", "nanotron_zagreus.training"]
    command += ["--config-file", str(config)]
    agents = []
    for node in ("node0", "node1"):
        (root / node).mkdir(exist_ok=True)
        agents.append(
            subprocess.Popen(
                command,
                cwd=root / node,
                env=launch_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [agent.communicate(timeout=120)[0] for agent in agents]
    assert [agent.returncode == 0 for agent in agents] == [succeeds] * 2, outputs
    return "\n".join(outputs)


def test_nodes_without_a_shared_file_system_each_keep_a_whole_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, parallelism__dp=2, tokens__batch_accumulation_per_replica=2)
    config["checkpoints"] |= {"checkpoints_path": "checkpoints", "checkpoints_path_is_shared_file_system": False}
    config["tokens"]["train_steps"] = 6
    del config["data_stages"][1]
    run_two_nodes(tmp_path, write_config(tmp_path / "first.yaml", config))
    for node in ("node0", "node1"):
        root = tmp_path / node / "checkpoints"
        assert layout.read_latest(root) == 5
        files = [record.path for record in manifest.verify(root / "5")]
        assert any(name.startswith("model/") for name in files)
        assert sum(name.startswith("random/") for name in files) == 1
    config["checkpoints"]["resume_checkpoint_path"] = "auto"
    config["tokens"]["train_steps"] = 10
    run_two_nodes(tmp_path, write_config(tmp_path / "second.yaml", config))
    digests = [
        {
            r.path: r.sha256
            for r in manifest.verify(tmp_path / node / "checkpoints" / "10")
            if r.path.startswith("model/")
        }
        for node in ("node0", "node1")
    ]
    assert digests[0] == digests[1]
    # A node is replaced by one that never trained.
    shutil.rmtree(tmp_path / "node1" / "checkpoints")
    output = run_two_nodes(tmp_path, tmp_path / "second.yaml", succeeds=False)
    assert output.count("the nodes found different checkpoints (step 10 on rank") == 1


def test_nodes_that_see_one_folder_keep_one_checkpoint_in_it_where_none_was_promised(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, parallelism__dp=2, tokens__batch_accumulation_per_replica=2)
    config["checkpoints"]["checkpoints_path_is_shared_file_system"] = False
    config["tokens"]["train_steps"] = 6
    del config["data_stages"][1]
    run_two_nodes(tmp_path, write_config(tmp_path / "run.yaml", config))
    root = tmp_path / "checkpoints"
    assert layout.read_latest(root) == 5
    files = [record.path for record in manifest.verify(root / "5")]
    assert sum(name.startswith("random/") for name in files) == 2
    assert [entry.name for entry in root.iterdir() if entry.name.startswith(".")] == [layout.CLAIM_FILE]
