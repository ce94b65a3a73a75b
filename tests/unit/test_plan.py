"""The plan's figures follow from the configuration, whatever its file is called."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import load_config
from nanotron_zagreus.memory import estimate_memory
from nanotron_zagreus.plan import StagePlan, make_plan
from tests.unit.config_fixtures import PUBLISHED, edited


def test_the_published_plan() -> None:
    plan = make_plan(edited())
    assert plan.parameters.total == 437_760_960
    assert plan.tokens_per_step == 1_048_576
    assert plan.num_tokens == 2_097_152_000_000
    assert [(stage.first_step, stage.last_step) for stage in plan.stages] == [(1, 2_000_000)]
    assert plan.num_checkpoints == 400
    assert plan.checkpoint_bytes == 14 * 437_760_960  # bf16 weights, fp32 masters, two fp32 moments


def test_stages_of_a_plan_follow_each_other_and_show_shares() -> None:
    plan = make_plan(load_config("zagreus_tiny.yaml"))
    first, second = plan.stages
    assert first.last_step + 1 == second.first_step
    assert second.last_step == plan.num_steps
    assert first.num_tokens + second.num_tokens == plan.num_tokens
    assert first.shares == pytest.approx((0.5, 0.1, 0.4))


def test_a_stage_says_what_decides_its_shares() -> None:
    def stage(**dataset: object) -> StagePlan:
        stages = [{"name": "one", "start_training_step": 1, "data": {"dataset": dataset}}]
        return make_plan(edited(data_stages=stages)).stages[0]

    weighted = stage(dataset_folder=["a", "b"], dataset_weights=[6, 2])
    assert (weighted.mixture, weighted.shares) == ("by weight", (0.75, 0.25))
    grouped = stage(dataset_groups={"all": {"dataset_folder": ["a", "b"], "tokens": 1_000}})
    assert (grouped.mixture, grouped.shares) == ("by group", None)
    by_size = stage(dataset_folder=["a", "b"])
    assert (by_size.mixture, by_size.shares) == ("by size", None)


def test_the_headroom_by_micro_batch_size_is_the_estimate_of_each() -> None:
    table = make_plan(edited()).memory_by_micro_batch_size
    assert table[4][0] == estimate_memory(edited()).total
    assert table[16][1] == estimate_memory(edited(tokens__micro_batch_size=16, parallelism__recompute_layer=True)).total
    assert [kept for kept, _ in table.values()] == sorted(kept for kept, _ in table.values())
    assert all(again < kept for kept, again in table.values())


def test_the_largest_micro_batch_fits_and_one_sequence_more_does_not() -> None:
    for gigabytes, sizes in make_plan(edited()).largest_micro_batch_sizes.items():
        for size, recompute in zip(sizes, (False, True), strict=True):
            fits, too_many = (
                estimate_memory(edited(tokens__micro_batch_size=n, parallelism__recompute_layer=recompute)).total
                for n in (size, size + 1)
            )
            assert fits <= gigabytes * 10**9 < too_many
    assert list(make_plan(edited()).largest_micro_batch_sizes) == [80, 141]  # A100 and H100, H200
    wide = edited(model__model_config__num_hidden_layers=1000)
    assert make_plan(wide).largest_micro_batch_sizes[80] == (0, 0)


def test_check_counts_what_stays_and_says_on_every_node(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = copy.deepcopy(PUBLISHED)
    data["zagreus"] = {"checkpoints": {"keep_last": 3, "keep_every": 500_000}}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(data))
    assert run(["check", "--config-file", str(file)]) == 0
    # 500,000, 1,000,000 and 1,500,000, and the last three: 1,990,000, 1,995,000 and 2,000,000
    assert "400 of 6.13 GB, of which 6 stay = 36.8 GB on each node" in capsys.readouterr().out
    data["checkpoints"]["checkpoints_path_is_shared_file_system"] = True
    file.write_text(yaml.safe_dump(data))
    assert run(["check", "--config-file", str(file)]) == 0
    assert "6 stay = 36.8 GB\n" in capsys.readouterr().out


def test_check_prints_the_plan_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--config-file", "zagreus_350M_por.yaml"]) == 0
    printed = capsys.readouterr().out
    for words in ("437,760,960 parameters", "1,048,576 tokens", "2.1T", "1,200,000 steps", "notice"):
        assert words in printed
    assert run(["check", "--config-file", "zagreus_350M_por.yaml", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parameters"]["total"] == 437_760_960
    assert 15e9 < data["memory_per_gpu"]["total"] < 25e9
    assert data["flops_per_token"]["nanotron"] > data["flops_per_token"]["causal"] > 3e9


def test_check_refuses_a_wrong_world_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--config-file", "zagreus_350M_por.yaml", "--world-size", "32"]) == 2
    assert "64 x 1 x 1 = 64" in capsys.readouterr().err


def test_check_imports_no_torch() -> None:
    program = (
        "import sys\nfrom nanotron_zagreus.cli.app import run\n"
        "assert run(['check', '--config-file', 'zagreus_350M_por.yaml']) == 0\n"
        "assert not {'torch', 'nanotron', 'transformers', 'datatrove'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
