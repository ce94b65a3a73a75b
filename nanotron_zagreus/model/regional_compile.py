"""torch.compile of one region that repeats, such as a decoder layer: compiled once, run by all its copies.

Compiling the whole model would take minutes and break at every pipeline block. A layer compiled by itself has its
norms, rotation, SwiGLU and residuals fused, and as its parameters are inputs, one graph serves all layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class RegionalCompile:
    """Calls a function compiled; if it turns out that it cannot be compiled here, calls it as it is from then on."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        what: str = "zagreus.compile_blocks: blocks",
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        """Compile nothing yet: torch does so at the first call.

        Args:
            function: works on tensors of the same shapes at every call, or of two or three in turn.
            what: names it in the warning.
            backend: torch.compile's; `inductor` writes C++ on a CPU and Triton on a GPU.
        """
        self._function, self._what = function, what
        # Static shapes: a run's never change, and general code for any shape is slower.
        self._compiled: Callable[..., Any] | None = torch.compile(function, backend=backend, dynamic=False)
        self._has_worked = False

    @property
    def is_eager(self) -> bool:
        """Whether compiling failed."""
        return self._compiled is None

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is None:
            return self._function(*arguments)
        try:
            out = self._compiled(*arguments)
        except Exception as error:
            if self._has_worked or not _is_of_the_compiler(error):
                raise
            self._compiled = None
            reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
            logger.warning("%s run uncompiled, for they cannot be compiled here (%s)", self._what, reason)
            return self._function(*arguments)
        self._has_worked = True
        return out


def _is_of_the_compiler(error: Exception) -> bool:
    """Tell a failure of the compiler (no C++ compiler, no Triton, an unknown operation) from one of the code."""
    return type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.", "torch._functorch."))
