"""How this process was launched: its rank, the world, and the process group. Reads the environment in one place."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from nanotron_zagreus.errors import InputError

PROCESS_GROUP_TIMEOUT_SECONDS = 1800
"""How long a collective may wait for a missing rank. The watchdog ends a standing job earlier and names the rank."""


def world_size() -> int:
    """Ranks of this launch, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's rank, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def local_world_size(*, default: int) -> int:
    """Ranks of this launch on this node, as torchrun says; ``default`` without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", default))


def max_cuda_connections() -> str:
    """CUDA_DEVICE_MAX_CONNECTIONS as text, set to upstream's 1 where nobody has set it.

    With 1, CUDA starts kernels in the order they are queued, so that communication overlaps with compute.
    """
    return os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def start_process_group() -> None:
    """Start the default process group from torchrun's environment, once; without torchrun, a group of one.

    NCCL where there is CUDA, gloo elsewhere.

    Raises:
        InputError: this node has CUDA, but fewer devices than ranks.
    """
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        _check_devices(local_world_size(default=1), torch.cuda.device_count())
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        backend="nccl" if has_cuda else "gloo", timeout=timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS)
    )


def _check_devices(num_ranks: int, num_devices: int) -> None:
    """Refuse more ranks on this node than it has GPUs: NCCL gives each rank one of its own."""
    if num_ranks > num_devices:
        raise InputError(
            f"--nproc_per_node: got {num_ranks} ranks on {socket.gethostname()}, where {num_devices} CUDA devices are "
            f"visible, and every rank needs its own; start {num_devices} (dp x tp x pp counts all nodes' ranks), make "
            "more visible in CUDA_VISIBLE_DEVICES, or train on the CPU with CUDA_VISIBLE_DEVICES=''"
        )


def _free_port() -> int:
    """Return a TCP port on the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
