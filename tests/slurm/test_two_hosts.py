"""The same configuration without Slurm: one torchrun on each of two hosts that share nothing but a cable."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import missing_requirement
from tiny_runs import REPOSITORY, launch, read_losses, tiny_config, write_config
from two_hosts import TwoHosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    reason = missing_requirement() or ("needs iproute2's ip" if shutil.which("ip") is None else None)
    if reason is not None:
        pytest.skip(f"no hosts can be made of namespaces here: {reason}")
    with TwoHosts(tmp_path) as running:
        yield running


def test_torchrun_on_two_hosts_gives_the_losses_of_one_process(hosts: TwoHosts, tmp_path: Path) -> None:
    both = tiny_config(tmp_path, parallelism__dp=2, tokens__batch_accumulation_per_replica=2)
    config = write_config(tmp_path / "run.yaml", both)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d"]
    command += [
        "--rdzv_endpoint=hosta:29500",
        "--rdzv_id=run-1",
        str(REPOSITORY / "run_train.py"),
        "--config-file",
        str(config),
    ]
    agents = [hosts.run(host, command, OMP_NUM_THREADS="1") for host in ("hosta", "hostb")]

    alone = tmp_path / "alone"
    launch([write_config(alone / "run.yaml", tiny_config(alone))], num_processes=1)
    for agent in agents:
        output, _ = agent.communicate(timeout=240)
        assert agent.returncode == 0, output
    losses, reference = read_losses(tmp_path / "checkpoints"), read_losses(alone / "checkpoints")
    assert losses.keys() == reference.keys() == set(range(1, 13))
    worst = max(abs(losses[step] - reference[step]) for step in losses)
    print(f"two hosts against one process: largest loss difference {worst:.1e}")
    assert worst <= 1e-5  # fp32: only the order of additions differs
