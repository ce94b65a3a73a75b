"""torchrun for `zagreus train`: the same program, with an exit code that says why the ranks ended.

    python -m nanotron_zagreus.training.agent PARENT_PID TORCHRUN_ARGUMENTS…

torchrun itself ends with 1 and a traceback of its own whatever its ranks have said.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from nanotron_zagreus.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, EXIT_VERIFICATION
from nanotron_zagreus.training.lifeline import end_with_parent

AGENT_VARIABLE = "ZAGREUS_AGENT"
"""Set for ranks under this program: those that stopped after saving say so by their exit code, too."""


def main(arguments: list[str]) -> int:
    """Run torchrun; return 0, or what the ranks said (refused, stopped), or 1. Arguments: parent's id, torchrun's.

    When the parent ends, torchrun is asked to end, and gives its ranks 30 s to save.
    """
    parent, *for_torchrun = arguments
    end_with_parent(signal.SIGTERM, int(parent))
    os.environ[AGENT_VARIABLE] = "1"
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # A rank that fails has said why; what torchrun logs about its exit would bury that.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        torchrun(for_torchrun)
    except SignalException:
        return EXIT_FAILED
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        _report_killed(codes)
        said = (code for code in (EXIT_VERIFICATION, EXIT_BAD_INPUT, EXIT_STOPPED) if code in codes.values())
        return next(said, EXIT_FAILED)
    return 0


def _report_killed(codes: dict[int, int]) -> None:
    """Name the ranks that a signal ended: they could not say anything themselves."""
    for rank, code in codes.items():
        if code >= 0 or code == -signal.SIGTERM:  # torchrun ends the others with SIGTERM once one has failed
            continue
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        print(f"zagreus: rank {rank} was ended by {name}{hint}; saved checkpoints are kept", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
