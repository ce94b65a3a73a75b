"""The log of steps, validations and notices: written by the rank that holds the loss, as loudly as the run's main log.

Nanotron (logging.py, `set_ranks_logging_level`) gives `log_level` to rank 0 and `log_level_replica` to all others. With
pipeline stages the loss is on one of the others, and its lines would be printed or not by the level of the replicas.
"""

from __future__ import annotations

import logging
import sys

from nanotron_zagreus.config.sections import LogLevel


def open_step_log(level: LogLevel) -> logging.Logger:
    """Return a logger that prints on stdout what ``level`` lets pass, once, in the format of the engine's own lines.

    The engine's log is set up by now; a later run of the same process opens it anew.
    """
    engine = logging.getLogger("nanotron").handlers
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(engine[0].formatter if engine else None)
    log = logging.getLogger(__name__)
    log.handlers, log.propagate = [handler], False
    log.setLevel(level.upper())
    return log
