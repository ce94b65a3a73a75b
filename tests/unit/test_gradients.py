"""Gradients added up and clipped all at once against the engine's own, parameter by parameter."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def build(dtype: torch.dtype) -> tuple[Any, Any]:
    """Return (a small model of the engine's parameters, its tensor- and pipeline-parallel group)."""
    from nanotron.parallel import ParallelContext
    from nanotron.parallel.parameters import NanotronParameter

    from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu

    with cuda_as_cpu():
        context = ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        value = torch.randn(parameter.shape, generator=generator).to(dtype)
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, NanotronParameter(tensor=value))
    return model, context.mp_pg


def loss_of(model: Any, seed: int) -> torch.Tensor:
    inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
    return model(inputs.to(next(model.parameters()).dtype)).square().sum()


def accumulators(model: Any) -> list[Any]:
    """Return two of the engine's fp32 accumulators over copies of the model, each with its model."""
    from nanotron.optim.gradient_accumulator import FP32GradientAccumulator

    from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu

    pairs = []
    for copied in (model, copy.deepcopy(model)):
        with cuda_as_cpu():
            pairs.append((copied, FP32GradientAccumulator(list(copied.named_parameters()))))
    return pairs


class Recorder(TorchDispatchMode):
    """Lists torch's operations by name, those that only look at a tensor otherwise left out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if not function.is_view:
            self.calls.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_accumulated_gradients_are_the_engine_s_bit_for_bit(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import accumulate_together

    (model, ours), (reference_model, theirs) = accumulators(build(torch.bfloat16)[0])
    accumulate_together(ours)
    for step in range(2):
        for seed in range(3 * step, 3 * step + 3):
            ours.backward(loss_of(model, seed))
            theirs.backward(loss_of(reference_model, seed))
        assert theirs._contiguous_fp32_grad_buffer.abs().sum() > 0
        assert torch.equal(ours._contiguous_fp32_grad_buffer, theirs._contiguous_fp32_grad_buffer)
        for name in theirs.parameters:
            assert torch.equal(ours.parameters[name]["fp32"].grad, theirs.parameters[name]["fp32"].grad)
        assert all(parameter.grad is None for parameter in model.parameters())
        for accumulator in (ours, theirs):
            accumulator.zero_grad()


def test_a_step_s_first_gradients_are_copied_and_the_others_added(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import accumulate_together

    model, accumulator = accumulators(build(torch.bfloat16)[0])[0]
    accumulate_together(accumulator)
    with Recorder() as recorder:
        for _ in range(2):
            accumulator.zero_grad()
            for seed in range(3):
                accumulator.backward(loss_of(model, seed))
    together = [name for name in recorder.calls if name in ("_foreach_copy_", "_foreach_add_")]
    assert together == 2 * ["_foreach_copy_", "_foreach_add_", "_foreach_add_"]


def test_between_steps_nothing_is_filled_with_zeros_and_no_weight_rounded_alone(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import accumulate_together

    (model, ours), (reference_model, theirs) = accumulators(build(torch.bfloat16)[0])
    accumulate_together(ours)
    for accumulator, copied in ((ours, model), (theirs, reference_model)):
        accumulator.backward(loss_of(copied, 1))
        with torch.no_grad():
            for pair in accumulator.parameters.values():
                pair["fp32"] -= 0.01 * pair["fp32"].grad
    with Recorder() as recorder:
        ours.step()
        ours.zero_grad()
    assert recorder.calls == ["_foreach_copy_"]
    theirs.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, reference_model.get_parameter(name))
        assert torch.equal(parameter, ours.parameters[name]["fp32"].bfloat16())


def test_under_zero_1_a_rank_s_optimizer_gets_its_slice_of_the_sums(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import _hand_to_optimizer

    sums = {name: torch.arange(6.0).view(2, 3) + start for name, start in (("divided", 0), ("another's", 10))}
    masters = {name: torch.nn.Parameter(torch.zeros(size)) for name, size in (("divided", 3), ("another's", 0))}
    accumulator = SimpleNamespace(
        param_name_to_offsets={"divided": (2, 5)},
        parameters={name: {"fp32": master} for name, master in masters.items()},
        fp32_grad_buffers={name: {"fp32_grad": total} for name, total in sums.items()},
    )
    _hand_to_optimizer(accumulator)
    assert masters["divided"].grad is not None and masters["divided"].grad.tolist() == [2, 3, 4]
    assert masters["another's"].grad is None
    sums["divided"] += 1
    assert masters["divided"].grad.tolist() == [3, 4, 5], "it follows what later micro-batches add"


@pytest.mark.parametrize("max_norm", [1e-3, 1e6])
@pytest.mark.parametrize("in_fp32", [True, False])
def test_clipping_is_the_engine_s(engine: Any, max_norm: float, in_fp32: bool) -> None:
    from nanotron.optim.clip_grads import clip_grad_norm

    from nanotron_zagreus.training.gradients import clip_gradients

    model, group = build(torch.bfloat16 if in_fp32 else torch.float32)
    if in_fp32:
        pairs = accumulators(model)
        for copied, accumulator in pairs:
            accumulator.backward(loss_of(copied, 1))
    else:
        pairs = [(model, None), (copy.deepcopy(model), None)]
        for copied, _ in pairs:
            loss_of(copied, 1).backward()
    (model, ours), (reference_model, theirs) = pairs
    norm = clip_gradients(model.named_parameters(), ours, group, max_norm)
    expected = clip_grad_norm(group, reference_model.named_parameters(), max_norm, theirs)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        reference = reference_model.get_parameter(name)
        clipped = (
            (parameter.grad, reference.grad)
            if ours is None
            else (ours.get_grad_buffer(name), theirs.get_grad_buffer(name))
        )
        torch.testing.assert_close(*clipped, rtol=1e-6, atol=0)


def test_without_a_limit_gradients_are_measured_and_left_alone(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import clip_gradients

    model, group = build(torch.float32)
    loss_of(model, 1).backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    norm = clip_gradients(model.named_parameters(), None, group, None)
    assert norm.item() == pytest.approx(torch.cat([grad.flatten() for grad in before]).norm().item(), rel=1e-6)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), before, strict=True))


def test_gradients_in_bf16_are_measured_in_fp32(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import clip_gradients

    model, group = build(torch.bfloat16)
    loss_of(model, 1).backward()
    exact = torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()]).norm()
    assert exact.bfloat16() != exact
    norm = clip_gradients(model.named_parameters(), None, group, None)
    assert norm.dtype == torch.float32 and norm.item() == pytest.approx(exact.item(), rel=1e-6)


def test_a_parameter_that_ranks_share_counts_on_the_first_of_them_and_is_scaled_on_all(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import clip_gradients

    _, group = build(torch.float32)

    def shared(*ranks: int) -> Any:
        tied = SimpleNamespace(global_ranks=ranks)
        return SimpleNamespace(grad=torch.full((4,), 1.5), is_tied=bool(ranks), get_tied_info=lambda: tied)

    own, first, copied = shared(), shared(0, 1), shared(1, 0)
    named = [("own", own), ("first", first), ("copied", copied)]
    assert clip_gradients(named, None, group, 1.0).item() == pytest.approx((2 * 4 * 1.5**2) ** 0.5)
    for parameter in (own, first, copied):
        assert parameter.grad.tolist() == pytest.approx([1.5 / 18**0.5] * 4, rel=1e-5)
    assert clip_gradients([("copied", shared(1, 0))], None, group, 1.0).item() == 0


def test_a_gradient_that_is_no_number_shows_in_the_norm(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import clip_gradients

    model, group = build(torch.float32)
    loss_of(model, 1).backward()
    model[0].weight.grad[0, 0] = float("nan")
    assert not clip_gradients(model.named_parameters(), None, group, 1.0).isfinite()


def test_a_loss_that_is_not_finite_makes_the_norm_infinite(engine: Any) -> None:
    from nanotron_zagreus.training.gradients import clip_gradients

    model, group = build(torch.float32)
    loss_of(model, 1).backward()
    for loss, is_finite in ((2.0, True), (float("inf"), False), (float("nan"), False)):
        norm = clip_gradients(model.named_parameters(), None, group, None, loss=torch.tensor(loss))
        assert bool(torch.isfinite(norm)) == is_finite
