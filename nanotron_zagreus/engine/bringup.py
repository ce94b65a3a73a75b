"""Bring the engine up: find it, import it repaired. Call this before anything imports nanotron."""

from __future__ import annotations

from nanotron_zagreus.engine.detection import find_engine
from nanotron_zagreus.engine.face import Engine
from nanotron_zagreus.engine.launch import max_cuda_connections

_brought_up: list[Engine] = []
"""The engine of this process, once there is one."""


def bring_up(wanted: str = "auto") -> Engine:
    """Make the installed Nanotron importable and usable here, on CUDA or CPU; return it.

    Idempotent. Nothing outside the `nanotron` package is changed, except that CUDA_DEVICE_MAX_CONNECTIONS gets
    upstream's value where nobody has set it.

    Raises:
        InputError: no engine, an unknown one, or not the one ``wanted``.
    """
    engine = find_engine(wanted)
    if not _brought_up:
        max_cuda_connections()
        engine.prepare()
        _brought_up.append(engine)
    return _brought_up[0]


def current() -> Engine:
    """Return the engine of this process, which :func:`bring_up` has brought up."""
    assert _brought_up, "bring_up() comes before everything that imports nanotron"
    return _brought_up[0]
