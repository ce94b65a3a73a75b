"""The two ways into training: one rank's process (`run_train.py`), and `zagreus train`, which starts the ranks."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.config import load_config
from nanotron_zagreus.errors import InputError, VerificationError, WorkError

EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: run again to go on."""


def rank_main() -> None:
    """Run one rank; the process's entry point under torchrun."""
    parser = argparse.ArgumentParser(description="Train a model; launch with torchrun, one process per GPU.")
    parser.add_argument("--config-file", required=True, help="the training YAML, or a shipped config's name")
    parser.add_argument(
        "--sanity-check-dataloader-interval",
        type=int,
        metavar="STEPS",
        help="log where a step's samples come from, every so many steps",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of a refused input too")
    arguments = parser.parse_args()
    sys.exit(_run_rank(arguments.config_file, arguments.sanity_check_dataloader_interval, debug=arguments.debug))


def _run_rank(config_file: str, show_samples_every: int | None, *, debug: bool) -> int:
    from nanotron_zagreus.training.run import run_training

    # nanotron 0.4 calls collectives under names that torch 2.13 has deprecated; once per rank and name is too often.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        run_training(config_file, show_samples_every=show_samples_every)
    except (InputError, VerificationError, WorkError) as error:
        if debug:
            traceback.print_exc()
        if is_first or not error.agreed:
            print(f"zagreus: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 3 if isinstance(error, VerificationError) else 1
    _leave_process_group()
    return 0


def _leave_process_group() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def launch(config_file: str | Path, num_processes: int | None) -> int:
    """Start the ranks on this machine and return the exit code of `zagreus train`.

    Args:
        config_file: the training YAML.
        num_processes: ranks to start; None: the configuration's dp x tp x pp.
    """
    config = load_config(config_file)
    ranks = num_processes or config.parallelism.world_size
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={ranks}",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=127.0.0.1:0",
        "-m",
        "nanotron_zagreus.training",
        "--config-file",
        str(Path(config_file)),
    ]
    code = subprocess.run(command, check=False).returncode
    outcome = read_outcome(config.checkpoints.checkpoints_path)
    if code == 0 and outcome is not None and outcome.why == "stopped":
        return EXIT_STOPPED
    return code
