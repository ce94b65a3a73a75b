"""Which replicas are wrapped, and what the hook of DistributedDataParallel leaves in the accumulator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize(("replicas", "is_wrapped"), [(1, False), (2, True)])
def test_replicas_reduce_while_the_backward_pass_goes_on_under_zero_1_too(
    engine: Any, replicas: int, is_wrapped: bool, zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.training import building

    seen: dict[str, Any] = {}
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(building, "build_model", lambda **_: model)
    for name in ("mark_tied_parameters", "check_model_has_grad", "sanity_check"):
        monkeypatch.setattr(building, name, lambda **_: None)
    monkeypatch.setattr(building, "DistributedDataParallel", lambda wrapped, **options: seen.update(options) or wrapped)
    config = SimpleNamespace(
        model=SimpleNamespace(dtype=torch.float32, ddp_bucket_cap_mb=25),
        optimizer=SimpleNamespace(accumulate_grad_in_fp32=True, zero_stage=zero_stage),
        parallelism=None,
    )
    context = SimpleNamespace(dp_pg=SimpleNamespace(size=lambda: replicas))
    assert building.build_training_model(lambda: model, config, context) is model
    assert bool(seen) == is_wrapped
    assert not is_wrapped or seen["gradient_as_bucket_view"]


@pytest.mark.parametrize("in_bf16", [False, True])
def test_the_hook_overwrites_in_a_step_s_first_micro_batch_and_adds_in_later_ones(engine: Any, in_bf16: bool) -> None:
    from nanotron import helpers

    from nanotron_zagreus.training.gradient_reduction import reducing_buckets

    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    names = {id(parameter): str(index) for index, parameter in enumerate(parameters)}
    sums = {name: torch.full(p.shape, 100.0) for name, p in zip(names.values(), parameters, strict=True)}
    memory = torch.tensor([1.0, 2, 3, 4, 5, 6, 7]).bfloat16()
    bucket = SimpleNamespace(
        parameters=lambda: parameters,
        gradients=lambda: [memory[:3], memory[3:].view(2, 2)],
        buffer=lambda: memory,
    )
    accumulator = SimpleNamespace(get_grad_buffer=sums.__getitem__, is_empty=True)
    state = SimpleNamespace(accumulator=accumulator, param_id_to_name=names)
    with reducing_buckets(lambda: torch.distributed.group.WORLD, in_bf16=in_bf16):
        hook = helpers.get_fp32_accum_hook(reduce_scatter=True)
    for step, factor in ((1, 1), (2, 2), (3, 1)):
        accumulator.is_empty = step != 2
        memory.copy_(torch.tensor([1.0, 2, 3, 4, 5, 6, 7]))
        assert hook(state, bucket).done()
        if (handle := accumulator.fp32_grads_allreduce_handle) is not None:
            handle.wait()
        assert sums["0"].tolist() == [factor * value for value in (1, 2, 3)]
        assert sums["1"].tolist() == [[factor * 4, factor * 5], [factor * 6, factor * 7]]


@pytest.mark.parametrize(("in_bf16", "average"), [(False, 128.5), (True, 128.0)])
def test_sums_are_averages_over_the_replicas_once_waited_for_rounded_where_wanted(
    engine: Any, in_bf16: bool, average: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron import distributed as engines_distributed
    from nanotron import helpers

    from nanotron_zagreus.training import gradient_reduction

    def reduce(tensors: Any, *, op: Any, group: str, async_op: bool) -> Any:
        assert (op, group, async_op) == (torch.distributed.ReduceOp.AVG, "replicas", True)
        tensors = tensors if isinstance(tensors, list) else [tensors]
        # The other replica's are zeros.
        return SimpleNamespace(wait=lambda: [tensor.mul_(0.5) for tensor in tensors])

    monkeypatch.setattr(gradient_reduction.distributed, "all_reduce", reduce)
    monkeypatch.setattr(engines_distributed, "all_reduce_coalesced", reduce)
    parameter, memory, sums = torch.nn.Parameter(torch.zeros(2, 2)), torch.ones(4).bfloat16(), torch.full((2, 2), 256.0)
    bucket = SimpleNamespace(
        parameters=lambda: [parameter], gradients=lambda: [memory.view(2, 2)], buffer=lambda: memory
    )
    accumulator = SimpleNamespace(get_grad_buffer=lambda name: sums, is_empty=False)
    state = SimpleNamespace(accumulator=accumulator, param_id_to_name={id(parameter): "weight"})
    with gradient_reduction.reducing_buckets(lambda: "replicas", in_bf16=in_bf16):
        helpers.get_fp32_accum_hook()(state, bucket)
    accumulator.fp32_grads_allreduce_handle.wait()
    assert sums.tolist() == [[average] * 2] * 2  # 257 has more bits than bf16
