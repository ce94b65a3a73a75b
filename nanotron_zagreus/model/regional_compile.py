"""torch.compile of one region that repeats, such as a decoder layer: compiled once, run by all its copies.

Compiling the whole model would take minutes and break at every pipeline block. A layer compiled by itself has its
norms, rotation, SwiGLU and residuals fused, and as its parameters are inputs, one graph serves all layers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from nanotron_zagreus.model.compile_workers import end_workers_at_exit

logger = logging.getLogger(__name__)


class RegionalCompile:
    """Calls a function compiled; if it turns out that it cannot be compiled here, calls it as it is from then on."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        what: str = "zagreus.compile_blocks: blocks",
        backend: str | Callable[..., Any] | None = None,
    ) -> None:
        """Leave torch's compiler alone until the first call.

        It notes which functions are torch's own when it is first asked for anything, and the engine has others in their
        place while a model is built (models/base.py:249 of 0.4): graphs would break at `torch.ones` ever after.

        Args:
            function: works on tensors of the same shapes at every call, or of two or three in turn.
            what: names it in the warning.
            backend: torch.compile's; None: :func:`lean_inductor`.
        """
        self._function, self._what, self._backend = function, what, backend or lean_inductor
        self._compiled: Callable[..., Any] | None = None
        self._has_worked = False
        self.is_eager = False
        """Whether compiling failed."""

    def __call__(self, *arguments: Any) -> Any:
        if self.is_eager:
            return self._function(*arguments)
        if self._compiled is None:
            # Else a region inside DistributedDataParallel is cut where its first bucket ends, which is there to start
            # reducing early in a whole model compiled as one; regions end often enough by themselves.
            torch._dynamo.config.optimize_ddp = False
            # Static shapes: a run's never change, and general code for any shape is slower.
            self._compiled = torch.compile(self._function, backend=self._backend, dynamic=False)
        try:
            out = self._compiled(*arguments)
        except Exception as error:
            if self._has_worked or not _is_of_the_compiler(error):
                raise
            self.is_eager = True
            _warn_once(self._what, " ".join(line.strip() for line in str(error).strip().splitlines()[:2]))
            return self._function(*arguments)
        finally:
            if not self._has_worked:
                end_workers_at_exit()
        self._has_worked = True
        return out


def lean_inductor(graph: Any, inputs: Any) -> Any:
    """Compile by `inductor`, which writes C++ on a CPU and Triton on a GPU, with less memory and traffic than it takes.

    Left alone, inductor keeps for the backward pass whatever that pass needs in memory: norms' outputs and SwiGLU's
    product too, of a layer's 14.7 hidden states' worth 4.7. All of it follows element by element from what is kept and
    read there anyway, and costs one more writing. And a concatenation computed in one kernel of its full width
    (gradients of gate and up) cannot share its reading with kernels of the parts' width.
    """
    from torch._functorch import config as functorch_config
    from torch._inductor import config as inductor_config
    from torch._inductor.compile_fx import compile_fx

    in_parts = {"max_pointwise_cat_inputs": 1, "max_complex_pointwise_cat_inputs": 1}
    with functorch_config.patch(_known(functorch_config, {"ban_recompute_materialized_backward": False})):
        return compile_fx(graph, inputs, config_patches=_known(inductor_config, in_parts))


def _known(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``options`` that this release of torch has: they come and go."""
    return {name: value for name, value in options.items() if hasattr(config, name)}


@functools.cache
def _warn_once(what: str, reason: str) -> None:
    """Warn on this rank, which may be the only one; several regions can fail for one reason."""
    text = "%s run uncompiled, slower and with more memory, for they cannot be compiled here (%s)"
    logger.warning(text, what, reason)


def _is_of_the_compiler(error: Exception) -> bool:
    """Tell a failure of the compiler (no C++ compiler, no Triton, an unknown operation) from one of the code."""
    return type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.", "torch._functorch."))
