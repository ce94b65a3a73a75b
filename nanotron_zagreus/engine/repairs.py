"""What is wrong in both engines and repaired in place, one small function each.

Every function names the upstream file and line, in 0.4 unless both are given (main at 2411b022), says why, and
when it can go. All of them change only attributes of `nanotron` modules, and are idempotent: a repaired object
carries a mark. What one engine alone needs stands in `repairs_04` and `repairs_main`.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Collection, Iterator
from typing import Any

from nanotron_zagreus.engine.launch import barrier, start_process_group, timeout_of_groups
from nanotron_zagreus.engine.stand_ins import importable
from nanotron_zagreus.errors import InputError

_MARK = "_zagreus_repair"


def repair_what_both_have() -> None:
    """Run every repair of this module; `nanotron.trainer` can be imported by now."""
    start_process_group_on_any_device()
    groups_wait_longer_than_the_watchdog()
    collectives_on_leaf_parameters()
    barriers_on_the_rank_s_own_device()
    wait_for_every_gradient_bucket()
    own_pipeline_state_per_batch()
    write_plain_numbers_in_shard_metadata()
    no_progress_bars_while_saving()


def import_trainer(*spared_packages: str, unused: Collection[str] = ()) -> None:
    """Import `nanotron.trainer`, and through it nearly everything else.

    Args:
        spared_packages: what the engine imports at the top of its modules and our model never uses.
        unused: of those, what is better not imported even where it is installed.

    Raises:
        InputError: another package is missing, or of a version that the engine cannot work with.
    """
    with importable(*spared_packages, unused=unused), explained_import_errors():
        importlib.import_module("nanotron.trainer")


@contextlib.contextmanager
def explained_import_errors() -> Iterator[None]:
    """Turn an ImportError of a package other than nanotron into an InputError that says what to install."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "nanotron").split(".")[0]
        if package == "nanotron":
            raise
        raise InputError(f"engine: {_what_is_wrong_with(package, error)}") from error


def _what_is_wrong_with(package: str, error: ImportError) -> str:
    if importlib.util.find_spec(package) is None:
        return f"nanotron needs {package}, which is not installed; `pip install {package}`"
    installed = [f"{d} {importlib.metadata.version(d)}" for d in _distributions_of(package)]
    return (
        f"nanotron imports what {' or '.join(installed) or package} does not have ({error}); install the version in "
        "requirements.lock"
    )


def _distributions_of(package: str) -> list[str]:
    return importlib.metadata.packages_distributions().get(package, [])


def start_process_group_on_any_device() -> None:
    """Start gloo where there is no CUDA, NCCL where there is.

    distributed.py:258 (main: 264) raises NotImplementedError without CUDA. Can go when it does not.
    """
    dist = importlib.import_module("nanotron.distributed")
    replace_once(dist, "initialize_torch_distributed", lambda original: _start_process_group)


def groups_wait_longer_than_the_watchdog() -> None:
    """Give every group the timeout that follows from the run's hang timeout.

    distributed.py:16 fixes 10 minutes (main: 18, 20 minutes), our default for the watchdog too: whichever came first
    would end the job, and a collective names nobody. Can go when the timeout is an argument of the trainer.
    """
    dist = importlib.import_module("nanotron.distributed")
    replace_once(dist, "new_group", _with_our_timeout)


def collectives_on_leaf_parameters() -> None:
    """Let in-place collectives write into parameters that require gradients.

    trainer.py:582 and 593 and sanity_checks.py:29 (main: 1067, 1078 and 30) pass parameters to all_reduce and
    broadcast; torch refuses an in-place change of a leaf outside no_grad with gloo. Can go when upstream wraps them.
    """
    dist = importlib.import_module("nanotron.distributed")
    for name in ("all_reduce", "all_reduce_coalesced", "broadcast"):
        replace_once(dist, name, _without_grad)


def barriers_on_the_rank_s_own_device() -> None:
    """Tell every barrier which GPU is this rank's.

    parallel/context.py:67 (main: 61) is the first use of NCCL, and names no device: torch guesses one from the rank's
    number and warns, on every rank, that a wrong guess hangs. Can go when upstream names it.
    """
    dist = importlib.import_module("nanotron.distributed")
    replace_once(dist, "barrier", lambda original: barrier)


def wait_for_every_gradient_bucket() -> None:
    """Wait for the all-reduce of every DDP bucket before the optimizer steps, not only for the last one.

    gradient_accumulator.py:377 (main: 383) keeps one handle and overwrites it per bucket: enough on one NCCL stream,
    which completes in order, not promised on gloo. Can go when the handles are collected upstream.
    """
    accumulator = importlib.import_module("nanotron.optim.gradient_accumulator").FP32GradientAccumulator
    if isinstance(accumulator.__dict__.get("fp32_grads_allreduce_handle"), _EveryHandle):
        return
    accumulator.fp32_grads_allreduce_handle = _EveryHandle()


def own_pipeline_state_per_batch() -> None:
    """Give every pipeline state its own queues.

    parallel/pipeline_parallel/state.py:54, 91-98 and 202-204 keeps deques as class attributes: after an exception,
    or with two trainers in one process, one batch sees another's tensors. Can go when they are instance attributes.
    """
    state = importlib.import_module("nanotron.parallel.pipeline_parallel.state")
    replace_once(state.PipelineTrainBatchState, "__init__", _with_own_queues)


def write_plain_numbers_in_shard_metadata() -> None:
    """Write `(128, 64)`, not numpy 2's `(np.int64(128), 64)`, into a weight file's metadata.

    serialize/metadata.py:49 (main: 125) takes str() of what parallel/sharded_parameters.py:64 computed with
    numpy; 0.4 itself cannot parse it back. Can go when the shape is made of ints.
    """
    metadata = importlib.import_module("nanotron.serialize.metadata").TensorMetadata
    replace_once(metadata, "to_str_dict", _with_plain_shape)


def no_progress_bars_while_saving() -> None:
    """Keep one progress bar per rank and save out of the log.

    serialize/weights.py:45 (main: 42) draws it on every rank. Can go when it is drawn on one.
    """
    weights = importlib.import_module("nanotron.serialize.weights")
    replace_once(weights, "tqdm", lambda original: lambda iterable, **options: iterable)


class _EveryHandle:
    """A descriptor: assigning adds a handle, reading gives one object whose wait() waits for all of them."""

    def __set__(self, instance: Any, handle: Any) -> None:
        handles = instance.__dict__.setdefault("_allreduce_handles", [])
        if handle is not None:
            handles.append(handle)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else _AllHandles(instance.__dict__.setdefault("_allreduce_handles", []))


class _AllHandles:
    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def wait(self) -> None:
        while self._handles:
            self._handles.pop(0).wait()


def _start_process_group() -> bool:
    start_process_group()
    return True


def _with_our_timeout(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def new_group(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **({"timeout": timeout_of_groups()} | options))

    return new_group


def _without_grad(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        import torch

        with torch.no_grad():
            return original(*arguments, **options)

    return wrapper


def _with_plain_shape(original: Callable[..., dict[str, str]]) -> Callable[..., dict[str, str]]:
    @functools.wraps(original)
    def to_str_dict(self: Any) -> dict[str, str]:
        return original(self) | {"unsharded_shape": str(tuple(int(size) for size in self.unsharded_shape))}

    return to_str_dict


def _with_own_queues(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        for cls in type(self).__mro__:
            for name, value in vars(cls).items():
                if isinstance(value, collections.deque):
                    setattr(self, name, collections.deque())

    return __init__


def replace_once(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace ``owner.name`` once by what ``make`` builds from it."""
    original = getattr(owner, name)
    if getattr(original, _MARK, False):
        return
    repaired = make(original)
    setattr(repaired, _MARK, True)
    setattr(owner, name, repaired)
