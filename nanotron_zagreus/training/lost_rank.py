"""Say in one sentence that another rank is gone, where torch says in which of its source files it noticed.

When one rank of a launch ends, every other one comes upon a broken connection: a traceback each would bury the words of
the first.
"""

from __future__ import annotations

import re

from nanotron_zagreus.errors import WorkError

_GLOO = re.compile(r"\[[^]]*/gloo/transport/[^]]*\] (.*?)(?:\. This is typically|$)", re.DOTALL)
"""torch 2.13: `[…/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.7]:9124: Connection reset by peer. This is …`."""


def lost_rank(error: Exception) -> WorkError | None:
    """Return what to report in place of ``error`` if it is a connection to another rank that broke, else None.

    Every rank makes its CPU group's small all-reduce at every step, on GPUs too, and meets the end of another there.
    """
    found = _GLOO.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    return WorkError(
        f"the connection to another rank broke ({found[1].strip()}): that rank has ended or stands still, or its node "
        "is gone; its own log or the launcher's says why. Saved checkpoints are kept"
    )
