"""The modelled gradient traffic against sums done by hand and against DistributedDataParallel's own buckets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.communication import Communication, Network, make_buckets, model_communication
from nanotron_zagreus.config import Config
from tests.unit.config_fixtures import edited

PARAMETERS, EMBEDDING = 437_760_960, 128_256 * 960
TP5 = {
    "parallelism__tp": 5,
    "parallelism__tp_mode": "ALL_REDUCE",
    "parallelism__tp_linear_async_communication": False,
}
NETWORK = Network(gigabits_per_second=400, gpus_per_node=4)


def modelled(config: Config, network: Network = NETWORK, rate: float = 20_000) -> Communication:
    found = model_communication(config, network, rate)
    assert found is not None
    return found


def test_the_published_run_moves_1_75_gb_a_step_a_quarter_of_it_last() -> None:
    traffic = modelled(edited())
    assert traffic.bytes_per_step == 4 * PARAMETERS == 1_751_043_840
    assert traffic.last_ready_share == pytest.approx(0.2813, abs=1e-4)
    # 2 x 63/64 x 1.751 GB over 50 GB/s
    assert traffic.reduce_seconds == pytest.approx(0.06895, abs=1e-5)
    assert modelled(edited(), Network(gigabits_per_second=400, gpus_per_node=1)) == traffic


def test_at_least_the_embedding_is_exposed_and_at_most_everything() -> None:
    for gigabits in (10, 100, 400, 3200):
        network = Network(gigabits_per_second=gigabits, gpus_per_node=4)
        traffic = modelled(edited(), network)
        assert network.all_reduce_seconds(4 * EMBEDDING, 64) <= traffic.exposed_seconds <= traffic.reduce_seconds
        assert traffic.step_seconds == pytest.approx(16_384 / 20_000 + traffic.exposed_seconds)


@pytest.mark.parametrize(("recompute", "share"), [(False, 2 / 3), (True, 3 / 4)])
def test_on_a_slow_network_all_but_what_the_backward_pass_hides_is_exposed(recompute: bool, share: float) -> None:
    network = Network(gigabits_per_second=1, gpus_per_node=4)
    config = edited(parallelism__recompute_layer=recompute)
    traffic = modelled(config, network)
    flops_outside_the_head = 1 - 0.7387 / 3.3809  # GFLOP per token: 1.8874 blocks, 0.7550 attention, 0.7387 head
    backward = 16_384 / 20_000 * flops_outside_the_head * share
    first = make_buckets(config, backward)[0].ready_seconds
    assert traffic.exposed_seconds == pytest.approx(traffic.reduce_seconds - (backward - first), rel=1e-3)


def test_bf16_halves_what_fp32_exposes_where_the_rest_is_hidden() -> None:
    traffic = modelled(edited())
    assert traffic.exposed_seconds_in_bf16 == pytest.approx(traffic.exposed_seconds / 2)
    rounded = modelled(edited(zagreus__gradient_reduction="bfloat16"))
    assert rounded.bytes_per_step == traffic.bytes_per_step / 2
    assert rounded.exposed_seconds == rounded.exposed_seconds_in_bf16 == traffic.exposed_seconds_in_bf16


def test_zero_1_reduces_as_without_it_and_gathers_the_weights() -> None:
    whole, divided = modelled(edited()), modelled(edited(optimizer__zero_stage=1))
    gather = NETWORK.all_reduce_seconds(2 * PARAMETERS, 64) / 2
    assert divided.num_buckets == whole.num_buckets
    assert divided.exposed_seconds == pytest.approx(whole.exposed_seconds + gather)


def test_the_tensor_parallel_ranks_of_a_replica_share_its_compute() -> None:
    traffic = modelled(edited(**TP5, tokens__batch_accumulation_per_replica=3))
    assert traffic.step_seconds - traffic.exposed_seconds == pytest.approx(3 * 16_384 / (5 * 20_000))


@pytest.mark.parametrize("changes", [{"parallelism__dp": 4}, {**TP5, "parallelism__dp": 1}, {"parallelism__pp": 2}])
def test_nothing_is_modelled_inside_a_node_or_for_pipelines(changes: dict[str, Any]) -> None:
    assert model_communication(edited(**changes), NETWORK, 20_000) is None


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cap", [1, 25, 300])
def test_the_buckets_are_those_that_torch_makes(tied: bool, cap: int) -> None:
    from torch._C._distributed_c10d import _compute_bucket_assignment_by_size  # type: ignore[attr-defined]

    config = edited(model__ddp_bucket_cap_mb=cap, model__model_config__tie_word_embeddings=tied)
    model = config.model.model_config
    width, kv_width = 960, model.kv_heads * model.head_dim
    ends = [(128_256, 960)] if tied else [(128_256, 960), (128_256, 960)]
    layer = [(960, model.intermediate_size), (2 * model.intermediate_size, 960), (960,), (960, width)]
    layer += [(width + 2 * kv_width, 960), (960,)]
    shapes = [*ends[1:], (960,), *(layer * model.num_hidden_layers), ends[0]]
    tensors = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    assignment, _ = _compute_bucket_assignment_by_size(tensors, [2**20, cap * 2**20])
    expected = [sum(tensors[index].numel() for index in bucket) for bucket in assignment]
    buckets = make_buckets(config, backward_seconds=1.0)
    assert [bucket.num_parameters for bucket in buckets] == expected
    ready = [bucket.ready_seconds for bucket in buckets]
    assert ready == sorted(ready) and ready[-1] == 1.0
    assert ready[0] == (1 / 32 if tied else 0.0)  # the norm and what the last layer gives first; or the head alone
    assert sum(expected) == PARAMETERS + (0 if tied else EMBEDDING)


def test_check_prints_the_traffic_and_gives_it_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--config-file", "zagreus_350M_por.yaml", "--network-gbits", "400", "--gpus-per-node", "4"]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("1.75 GB of gradients", "28% of it the embedding's", "400 Gbit/s per node of 4", "68.9 ms"):
        assert words in printed
    assert run([*arguments, "--tokens-per-second-per-gpu", "20000", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["communication"]["exposed_seconds"] == pytest.approx(modelled(edited()).exposed_seconds)
    assert run(["check", "--config-file", "zagreus_350M_por.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["communication"] is None


@pytest.mark.parametrize(
    ("option", "value"), [("--network-gbits", "0"), ("--gpus-per-node", "0"), ("--tokens-per-second-per-gpu", "-1")]
)
def test_a_network_that_cannot_be_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--config-file", "zagreus_350M_por.yaml", "--network-gbits", "400", option, value]
    assert run(arguments) == 2
    assert option in capsys.readouterr().err
