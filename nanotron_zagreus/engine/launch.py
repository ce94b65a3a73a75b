"""How this process was launched: its rank, the world, and the process group. Reads the environment in one place."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from nanotron_zagreus.errors import InputError, agreed

SHORTEST_GROUP_TIMEOUT_SECONDS = 1800.0
_WATCHDOG_SPEAKS_FIRST = 6
"""A collective's own timeout names nobody, so it is this many times the watchdog's."""
_FIRST_RANK_SPEAKS_SECONDS = 20.0
"""How long other ranks put off an end that rank 0 is to explain: torchrun ends all ranks of a node with the first."""
_FOR_EVER = timedelta(days=3650)

_timeout = [timedelta(seconds=SHORTEST_GROUP_TIMEOUT_SECONDS)]
_rounds = itertools.count()


def world_size() -> int:
    """Ranks of this launch, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's rank, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def launch_started_at() -> float:
    """Return when this process's launch began, in seconds since the epoch; elsewhere than on Linux, a little later.

    Under torchrun that is when torchrun was started: nodes may wait for each other for minutes before there are ranks.
    """
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        fields = Path(f"/proc/{launcher}/stat").read_bytes().rsplit(b")", 1)[1].split()
        ticks = int(fields[19])  # the line's 22nd, starttime
    except (OSError, ValueError, IndexError):
        return time.time() - time.process_time()
    alive = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - alive


def check_restart() -> str:
    """Return what to know about torchrun's `--max_restarts`, empty where it is not used or will do.

    Raises:
        InputError: torchrun has started the ranks again, and they would read what the ranks before them left in the
            rendezvous store: torch 2.13 (static_tcp_rendezvous.py:60, dynamic_rendezvous.py:1209) keeps one for all.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not int(
        os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    ):
        return ""
    text = (
        "--max_restarts: ranks that torchrun starts again find the rendezvous store of those before, and would take "
        "their words for one another's; for restarts that work give torchrun --rdzv_backend=c10d and export "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or leave --max_restarts out and run the same command again"
    )
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        if rank() != 0:
            time.sleep(_FIRST_RANK_SPEAKS_SECONDS)
        raise agreed(InputError(text))
    return text


def node() -> int:
    """torchrun's number of the node that this rank runs on, 0 without torchrun."""
    return int(os.environ.get("GROUP_RANK", "0"))


def place_on_node() -> tuple[int, int]:
    """Return which of its node's ranks this is, and how many the node has."""
    return int(os.environ.get("LOCAL_RANK", "0")), local_world_size(default=1)


def local_world_size(*, default: int) -> int:
    """Ranks of this launch on this node, as torchrun says; ``default`` without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", default))


def max_cuda_connections() -> str:
    """CUDA_DEVICE_MAX_CONNECTIONS as text, set to upstream's 1 where nobody has set it.

    With 1, CUDA starts kernels in the order they are queued, so that communication overlaps with compute.
    """
    return os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def group_timeout(hang_timeout_seconds: float) -> timedelta:
    """Return how long a collective may wait for a rank, longer than the watchdog waits; for ever when that does.

    Args:
        hang_timeout_seconds: `zagreus.guards.hang_timeout_seconds`.
    """
    if hang_timeout_seconds == 0:
        return _FOR_EVER
    return timedelta(seconds=max(SHORTEST_GROUP_TIMEOUT_SECONDS, _WATCHDOG_SPEAKS_FIRST * hang_timeout_seconds))


def start_process_group(timeout: timedelta | None = None) -> None:
    """Start the default process group from torchrun's environment, once; without torchrun, a group of one.

    NCCL where there is CUDA, gloo elsewhere.

    Args:
        timeout: how long its collectives wait for a rank; None: the shortest that is ever used.

    Raises:
        InputError: this node has CUDA, but fewer devices than ranks.
    """
    import torch
    from torch import distributed

    if timeout is not None:
        _timeout[0] = timeout
    if distributed.is_initialized():
        return
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        _check_devices(local_world_size(default=1), torch.cuda.device_count())
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(backend="nccl" if has_cuda else "gloo", timeout=timeout_of_groups())


def barrier(group: Any = None) -> None:
    """Wait for the ranks of ``group``, by default all, on this rank's GPU where there is CUDA."""
    import torch
    from torch import distributed

    device_ids = [torch.cuda.current_device()] if torch.cuda.is_available() else None
    distributed.barrier(group, device_ids=device_ids)


def timeout_of_groups() -> timedelta:
    """Return the timeout of every group that is made beside the default one."""
    return _timeout[0]


def exchange(value: Any) -> list[Any]:
    """Return what every rank gave, by rank; every rank calls it, once the process group is there.

    It goes through the rendezvous store: neither the devices nor the network between them need to work yet.

    Args:
        value: JSON-able.
    """
    from torch import distributed

    store = distributed.distributed_c10d._get_default_store()
    name = f"zagreus/exchange/{next(_rounds)}"
    store.set(f"{name}/{distributed.get_rank()}", json.dumps(value))
    return [json.loads(store.get(f"{name}/{other}")) for other in range(distributed.get_world_size())]


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
