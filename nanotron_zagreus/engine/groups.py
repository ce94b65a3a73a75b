"""How long the process groups beside the default one wait for a rank."""

from __future__ import annotations

from datetime import timedelta


def default_group_timeout() -> timedelta:
    """Return the default process group's timeout.

    torch gives every other group its backend's own default instead, 10 minutes for NCCL: a collective that gives up
    before the watchdog ends the job without saying which rank it waited for.
    """
    import torch
    from torch import distributed

    device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    timeout: timedelta = distributed.distributed_c10d._get_default_group()._get_backend(device).options._timeout
    return timeout
