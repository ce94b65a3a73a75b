"""The two ways into training: one rank's process (`run_train.py`), and `zagreus train`, which starts the ranks."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from nanotron_zagreus.checkpoints.layout import OUTCOME_FILE
from nanotron_zagreus.checkpoints.outcome import read_outcome
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_VERIFICATION,
    InputError,
    VerificationError,
    WorkError,
)
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.training.agent import AGENT_VARIABLE
from nanotron_zagreus.training.lifeline import end_with_parent
from nanotron_zagreus.training.preflight import check_before_start
from nanotron_zagreus.training.stop_requests import StopRequests
from nanotron_zagreus.utf8_mode import restart_in_utf8

_POLL_SECONDS = 0.5


def rank_main() -> None:
    """Run one rank; the process's entry point under torchrun."""
    restart_in_utf8()
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
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun's ranks have sessions of their own: nothing else would end them with it.
        end_with_parent(signal.SIGKILL)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        outcome = run_training(config_file, show_samples_every=show_samples_every)
    except (InputError, VerificationError, WorkError) as error:
        if debug:
            traceback.print_exc()
        if is_first or not error.agreed:
            print(f"zagreus: {error}", file=sys.stderr, flush=True)
        kinds = ((InputError, EXIT_BAD_INPUT), (VerificationError, EXIT_VERIFICATION))
        return next((code for kind, code in kinds if isinstance(error, kind)), EXIT_FAILED)
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        traceback.print_exc()
        advice = _out_of_memory(load_config(find_config(config_file)))
        print(f"zagreus: rank {os.environ.get('RANK', '0')}: {advice}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    _leave_process_group()
    # With restarts, as by PET_MAX_RESTARTS, torchrun would start the ranks again.
    is_heard = AGENT_VARIABLE in os.environ and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0"
    return EXIT_STOPPED if outcome.why == "stopped" and is_heard else 0


def _out_of_memory(config: Config) -> str:
    """Return what to do about a GPU that is full: what needs less memory and is not done yet."""
    tokens, parallelism = config.tokens, config.parallelism
    ways = {
        "halve tokens.micro_batch_size and double tokens.batch_accumulation_per_replica": tokens.micro_batch_size > 1,
        "set parallelism.recompute_layer: true": not parallelism.recompute_layer,
        "set optimizer.zero_stage: 1": parallelism.dp > 1 and not config.optimizer.zero_stage,
    }
    advice = ", or ".join(way for way, is_open in ways.items() if is_open)
    return (
        "the GPU's memory is used up, by this run alone or by others on it too; "
        f"{advice or 'raise parallelism.tp'} (`zagreus check` prints what a GPU needs), and run again. Saved "
        "checkpoints are kept"
    )


def _leave_process_group() -> None:
    from torch import distributed

    from nanotron_zagreus.engine.launch import barrier

    if distributed.is_initialized():
        barrier()
        distributed.destroy_process_group()


def launch(config_file: str | Path, num_processes: int | None) -> int:
    """Start the ranks on this machine and return the exit code of `zagreus train`.

    SIGINT, SIGTERM and SIGUSR1 make the run save and stop; another one a few seconds later ends it at once.

    Args:
        config_file: the training YAML.
        num_processes: ranks to start; None: the configuration's dp x tp x pp.

    Raises:
        InputError: what can be refused without ranks.
    """
    file = find_config(config_file).resolve()
    config = load_config(file)
    num_ranks = num_processes or config.parallelism.world_size
    check_before_start(config, num_ranks)
    root = config.checkpoints.checkpoints_path
    (root / OUTCOME_FILE).unlink(missing_ok=True)  # what a run before this one left says nothing about this one
    with StopRequests(root) as requests:
        # A session of its own: Ctrl-C reaches the terminal's whole group, and torchrun would pass it on its own way.
        process = subprocess.Popen(_agent_command(file, num_ranks), start_new_session=True)
        code = _wait(process, requests)
    if requests.must_end_now:
        return EXIT_INTERRUPTED
    # What the ranks have written counts, whatever became of their processes afterwards: a cluster may end torchrun
    # while it waits for them. The code is for a file that is gone: the disk was full, or the next run has begun.
    outcome = read_outcome(root)
    if outcome is not None and outcome.why in ("stopped", "finished"):
        return EXIT_STOPPED if outcome.why == "stopped" else 0
    return code if code >= 0 else EXIT_FAILED


def _agent_command(file: Path, num_ranks: int) -> list[str]:
    torchrun = [f"--nproc_per_node={num_ranks}", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0"]
    ranks = ["-m", "nanotron_zagreus.training", "--config-file", str(file)]
    return [sys.executable, "-m", "nanotron_zagreus.training.agent", str(os.getpid()), *torchrun, *ranks]


def _wait(process: subprocess.Popen[bytes], requests: StopRequests) -> int:
    """Return the exit code of torchrun, passing on what signals ask for in the meantime."""
    while True:
        try:
            return process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            requests.pass_on()
            if requests.must_end_now:
                process.kill()  # the kernel ends the ranks with it
