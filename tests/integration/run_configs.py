"""Train several configurations in one process group; started by `tiny_runs.launch` under torchrun.

Arguments are `FILE` or `MODE:FILE`, or `MODE:OPTION:FILE`:
    resave           resume what the file says and save at once, without a step between
    kill-points      resume, then kill a save at its write points and check what is left
    nan:STEPS@RANK   make the loss of the steps (comma-separated) NaN on one rank
    inf:STEPS@RANK   make the loss infinite and leave its gradients as they are
    drift:STEP@RANK  change a weight after a step on one rank
    fused-loss       take the loss as on a GPU, a chunk's elementwise work compiled
    uneven-masks     let each row count as many labels as its first token says, from 1 to all
    file-limit:BYTES let no file grow beyond so many bytes, as on a full disk
    bad-data:STEP@RANK  let one rank find a bad token while a save is written
    slow-then-hung:STEP@RANK  write files and validate slowly, and let a rank's data not come from a step on
    slow-save:FLAG   a save takes two minutes while the file FLAG exists, as on an overloaded file system
    late-nan:STEPS@RANK   as nan, with figures read one step late, as on a GPU
"""

from __future__ import annotations

import sys
from typing import Any

from kill_points import kill_at_write_points
from run_faults import (
    drift,
    find_bad_data,
    poison,
    poison_late,
    poison_loss_alone,
    slow_then_hung,
    with_file_limit,
    with_fused_loss,
    with_slow_saves,
    with_uneven_masks,
)
from torch import distributed

from nanotron_zagreus.config import load_config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import start_process_group
from nanotron_zagreus.training.resume_point import find_resume_point
from nanotron_zagreus.training.run import run_training


def resumed_loop(config_file: str) -> Any:
    """Return the training loop of a configuration, resumed and ready for its first step."""
    bring_up()
    start_process_group()
    from nanotron_zagreus.training.loop import TrainingLoop

    config = load_config(config_file)
    resume = find_resume_point(config)
    assert resume is not None
    return TrainingLoop(config, open_mixture(config, progress=resume.data_state), resume)


def resave(config_file: str) -> None:
    loop = resumed_loop(config_file)
    loop.saver.begin()
    loop.saver.finish()
    loop.loader.close()


def kill_points(config_file: str) -> None:
    loop = resumed_loop(config_file)
    kill_at_write_points(loop)
    loop.loader.close()


MODES = {
    "resave": resave,
    "kill-points": kill_points,
    "uneven-masks": with_uneven_masks,
    "fused-loss": with_fused_loss,
}
MODES_WITH_AN_OPTION = {
    "nan": poison,
    "inf": poison_loss_alone,
    "late-nan": poison_late,
    "drift": drift,
    "bad-data": find_bad_data,
    "file-limit": with_file_limit,
    "slow-save": with_slow_saves,
    "slow-then-hung": slow_then_hung,
}


def main() -> None:
    for argument in sys.argv[1:]:
        *mode, config_file = argument.split(":")
        if not mode:
            run_training(config_file)
        elif len(mode) == 1:
            MODES[mode[0]](config_file)
        else:
            bring_up()
            start_process_group()
            MODES_WITH_AN_OPTION[mode[0]](mode[1], config_file)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
