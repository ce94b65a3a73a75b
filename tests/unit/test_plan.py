"""The plan's figures and notices follow from the configuration, whatever its file is called."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import Config, load_config, load_config_text
from nanotron_zagreus.config.reliability import CheckpointKeepingSection
from nanotron_zagreus.config.sections import CheckpointsSection
from nanotron_zagreus.memory import checkpoint_bytes, estimate_memory, num_kept, num_saves
from nanotron_zagreus.notices import machine_notices, missing_tokenizer, notices
from nanotron_zagreus.plan import make_plan
from nanotron_zagreus.resources import find_config
from nanotron_zagreus.units import human_bytes, human_count, human_duration

PUBLISHED: dict[str, Any] = yaml.safe_load(find_config("zagreus_350M_por.yaml").read_text(encoding="utf-8"))


def edited(**changes: Any) -> Config:
    """Return the published configuration with values changed; `a__b=1` is a.b = 1."""
    data = copy.deepcopy(PUBLISHED)
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return load_config_text(yaml.safe_dump(data), origin="run.yaml")


def one_notice(config: Config, key_word: str) -> str | None:
    """Return the only notice with ``key_word`` in it, or None."""
    found = [text for text in notices(config) if key_word in text]
    assert len(found) <= 1
    return found[0] if found else None


def test_the_published_plan() -> None:
    plan = make_plan(edited())
    assert plan.parameters.total == 437_760_960
    assert plan.tokens_per_step == 1_048_576
    assert plan.num_tokens == 2_097_152_000_000
    assert [(stage.first_step, stage.last_step) for stage in plan.stages] == [(1, 2_000_000)]
    assert plan.num_checkpoints == 400
    assert plan.checkpoint_bytes == 14 * 437_760_960  # bf16 weights, fp32 masters, two fp32 moments


def test_the_published_notices() -> None:
    config = edited()
    for key_words in (
        ["2,000,000 steps", "1,048,576 tokens", "2.1T"],
        ["minimum at step 800,000", "1,200,000 steps", "1e-07"],
        ["tp_linear_async_communication", "tp = 1"],
        ["save_final_state", "final step"],
        ["no dataset_weights", "size"],
    ):
        assert any(all(word in text for word in key_words) for text in notices(config)), key_words


def test_a_file_that_does_as_it_says_gets_none_of_them() -> None:
    config = load_config("zagreus_tiny.yaml")
    assert notices(config) == ()


@pytest.mark.parametrize(
    ("key_word", "changes"),
    [
        ("is that the budget", {"tokens__train_steps": 400_000}),
        ("minimum", {"optimizer__learning_rate_scheduler__lr_decay_steps": 1_250_000}),
        ("minimum", {"optimizer__learning_rate_scheduler__min_decay_lr": None}),
        ("tp_linear_async", {"parallelism__tp_linear_async_communication": False}),
        ("save_final_state", {"checkpoints__save_final_state": True}),
        ("val_check_interval", {"tokens__val_check_interval": -1}),
        ("initializer_range", {"model__model_config__initializer_range": 0.03227}),
        ("same nodes", {"checkpoints__checkpoints_path_is_shared_file_system": True}),
        ("same nodes", {"parallelism__dp": 8}),
    ],
)
def test_a_notice_goes_with_its_cause(key_word: str, changes: dict[str, Any]) -> None:
    assert one_notice(edited(), key_word) is not None
    assert one_notice(edited(**changes), key_word) is None


@pytest.mark.parametrize(
    ("key_words", "changes"),
    [
        (
            ["end at step 2,746,000", "lr_warmup_steps"],
            {"optimizer__learning_rate_scheduler__lr_decay_steps": None},
        ),
        (["less than max_position_embeddings"], {"tokens__sequence_length": 2048}),
        (["last 3 steps", "1,999,998"], {"tokens__train_steps": 2_000_001, "checkpoints__checkpoint_interval": 6}),
    ],
)
def test_a_notice_comes_with_its_cause(key_words: list[str], changes: dict[str, Any]) -> None:
    text = one_notice(edited(**changes), key_words[0])
    assert text is not None
    assert all(word in text for word in key_words)
    assert one_notice(edited(), key_words[0]) is None


def test_missing_data_and_tokenizer_are_notices_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    config = load_config("zagreus_tiny.yaml")
    data, tokenizer = machine_notices(config)
    assert "3 of 3 folders do not exist" in data
    assert "demo_output/tokenizer does not exist here" in tokenizer
    assert "hf download" not in tokenizer, "the run's own folders lie in demo_output: no hub id"
    gated = next(text for text in machine_notices(edited()) if "tokenizer" in text)
    assert "gated" in gated and "hf download meta-llama/Llama-3.2-1B" in gated

    for name in ("english", "portuguese", "code"):
        (tmp_path / "demo_output" / "tokenized" / name).mkdir(parents=True)
    (tmp_path / "demo_output" / "tokenized" / "english" / "0.ds").write_bytes(b"")
    (tmp_path / "demo_output" / "tokenizer").mkdir()
    (only,) = machine_notices(config)
    assert "2 hold no .ds file" in only


@pytest.mark.parametrize(
    ("name", "key_words"),
    [
        ("gpt2", ["gpt2", "hf download gpt2", "cache"]),
        ("someone/Llama", ["someone/Llama", "hf download someone/Llama --include '*.json' --cache-dir {home}/hub"]),
        ("someone/Llama 3.2", ["someone/Llama 3.2", "does not exist here"]),
        ("a--b/c", ["a--b/c", "does not exist here"]),
        ("./tok", ["./tok does not exist here"]),
        ("tokenizers/tok.json", ["tokenizers/tok.json does not exist here"]),
        ("a/b/c", ["a/b/c does not exist here"]),
    ],
)
def test_a_missing_tokenizer_is_called_what_it_may_be(name: str, key_words: list[str], tmp_path: Path) -> None:
    text = missing_tokenizer(edited(tokenizer__tokenizer_name_or_path=name), hf_home=tmp_path)
    assert text is not None
    assert all(word.format(home=tmp_path) in text for word in key_words)
    assert ("hf download" in text) == any("hf download" in word for word in key_words)


def test_a_mistyped_folder_of_a_tokenizer_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / "tokenizer").mkdir(parents=True)
    text = missing_tokenizer(edited(tokenizer__tokenizer_name_or_path="work/tokenzier"), hf_home=tmp_path)
    assert text is not None and "work/tokenzier does not exist here" in text and "no such folder or file" in text
    assert "hf download" not in text
    cached = tmp_path / "hub" / "models--work--tokenzier"
    (cached / "snapshots" / "1").mkdir(parents=True)
    (cached / "snapshots" / "1" / "tokenizer.json").touch()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1")
    assert missing_tokenizer(edited(tokenizer__tokenizer_name_or_path="work/tokenzier"), hf_home=tmp_path) is None
    elsewhere = missing_tokenizer(edited(tokenizer__tokenizer_name_or_path="someone/Llama"), hf_home=tmp_path)
    assert elsewhere is not None and "hf download someone/Llama" in elsewhere


def test_validation_that_never_comes_is_a_notice() -> None:
    held_out = {"tokens__limit_val_batches": 5, "zagreus__validation_windows_per_source": 8}
    text = one_notice(edited(**held_out, tokens__val_check_interval=-1), "limit_val_batches")
    assert text is not None and "never" in text and "val_check_interval" in text
    assert one_notice(edited(**held_out, tokens__val_check_interval=100), "limit_val_batches") is None
    late = one_notice(edited(**held_out, tokens__val_check_interval=2_000_001), "limit_val_batches")
    assert late is not None and "never runs in 2,000,000 steps" in late and "2,000,001" in late


def test_a_missing_checkpoint_to_start_from_is_a_notice(tmp_path: Path) -> None:
    resumed = edited(checkpoints__resume_checkpoint_path=str(tmp_path / "none"))
    assert any("resume_checkpoint_path" in text for text in machine_notices(resumed))
    automatic = edited(checkpoints__resume_checkpoint_path="auto")
    assert not any("resume_checkpoint_path" in text for text in machine_notices(automatic))
    from_other = edited(model__init_method={"path": str(tmp_path / "none")})
    assert any("init_method.path" in text for text in machine_notices(from_other))


def test_stages_of_a_plan_follow_each_other_and_show_shares() -> None:
    plan = make_plan(load_config("zagreus_tiny.yaml"))
    first, second = plan.stages
    assert first.last_step + 1 == second.first_step
    assert second.last_step == plan.num_steps
    assert first.num_tokens + second.num_tokens == plan.num_tokens
    assert first.shares == pytest.approx((0.5, 0.1, 0.4))


def test_memory_follows_the_precision_and_the_sharding() -> None:
    whole = estimate_memory(edited())
    parameters = 437_760_960
    assert whole.parameters == 2 * parameters
    assert whole.fp32_parameters == whole.fp32_gradients == 4 * parameters
    assert whole.optimizer_moments == 8 * parameters

    # Micro-batches whose gradients do not travel make them beside the buckets.
    twice = estimate_memory(edited(tokens__batch_accumulation_per_replica=2))
    assert twice.gradients == 2 * whole.gradients == 4 * parameters
    assert estimate_memory(edited(tokens__batch_accumulation_per_replica=2, parallelism__dp=1)) == whole

    zero = estimate_memory(edited(optimizer__zero_stage=1))
    assert zero.optimizer_moments == 8 * parameters // 64

    tensor_parallel = estimate_memory(
        edited(
            parallelism__tp=5,
            parallelism__tp_linear_async_communication=False,
            parallelism__tp_mode="ALL_REDUCE",
        )
    )
    # The hidden states' gradient is whole on every rank, the rest of the head is divided.
    undivided = 4 * 4096 * 960 * 2
    assert tensor_parallel.logits - undivided == pytest.approx((whole.logits - undivided) / 5, rel=1e-4)
    assert tensor_parallel.parameters < whole.parameters / 4

    recomputed = estimate_memory(edited(parallelism__recompute_layer=True))
    assert recomputed.activations < whole.activations / 7

    plain = estimate_memory(edited(zagreus__cross_entropy="plain"))
    assert plain.logits == 4 * 4096 * 128_256 * 2 * (2 + 4) > 8 * whole.logits
    exact = edited(zagreus__cross_entropy="plain", model__dtype="float32", optimizer__accumulate_grad_in_fp32=False)
    assert estimate_memory(exact).logits == plain.logits

    # A chunk's logits are more than what a block works in, until micro-batches grow.
    assert whole.workspace == 0 < estimate_memory(edited(tokens__micro_batch_size=24)).workspace

    uncompiled = estimate_memory(edited(zagreus__compile_blocks=False))
    assert uncompiled.activations > 2 * whole.activations
    assert estimate_memory(edited(zagreus__compile_blocks=True)) == whole  # what auto means on a GPU
    pipelined = estimate_memory(edited(parallelism__pp=2, zagreus__cross_entropy="plain"))
    assert pipelined.logits == plain.logits  # the last rank is the fullest: it holds all logits
    assert pipelined.activations < whole.activations


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
    wide = edited(model__model_config__num_hidden_layers=1000)
    assert make_plan(wide).largest_micro_batch_sizes[80] == (0, 0)


def test_saves_are_counted_with_the_first_and_the_last() -> None:
    assert num_saves(edited(tokens__train_steps=12_001)) == 2
    assert num_saves(edited(tokens__train_steps=12_001, checkpoints__save_final_state=True)) == 3
    assert num_saves(edited(checkpoints__save_final_state=True)) == 400
    assert num_saves(edited(checkpoints__save_initial_state=True)) == 401
    tiny = load_config("zagreus_tiny.yaml")
    assert checkpoint_bytes(tiny) == 12 * 590_688  # fp32 weights and moments, no masters


@given(
    steps=st.integers(1, 60),
    interval=st.integers(1, 20),
    keep_last=st.none() | st.integers(1, 70),
    keep_every=st.integers(1, 20) | st.just(None),
    first=st.booleans(),
    final=st.booleans(),
)
@settings(deadline=None)
def test_what_stays_is_what_pruning_leaves(
    steps: int, interval: int, keep_last: int | None, keep_every: int | None, first: bool, final: bool
) -> None:
    checkpoints = CheckpointsSection(
        checkpoints_path=Path("x"), checkpoint_interval=interval, save_initial_state=first, save_final_state=final
    )
    keeping = CheckpointKeepingSection(keep_last=keep_last, keep_every=keep_every if keep_last else None)
    saved = sorted({step for step in range(1, steps + 1) if step % interval == 0 or (final and step == steps)})
    saved = [*([0] if first else []), *saved]
    kept = set(saved) if keep_last is None else set(saved[-keep_last:])
    if keeping.keep_every is not None:
        kept |= {step for step in saved if step % keeping.keep_every == 0}
    assert num_kept(checkpoints, keeping, steps) == len(kept)


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


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (human_count(437_760_960), "438M"),
        (human_count(999_999), "1M"),
        (human_count(0), "0"),
        (human_count(2.097152e12), "2.1T"),
        (human_bytes(6_128_653_440), "6.13 GB"),
        (human_duration(38), "38 s"),
        (human_duration(90_061), "1 d 1 h"),
        (human_duration(3600), "1 h"),
        (human_duration(0), "0 s"),
    ],
)
def test_quantities_are_written_for_people(text: str, written: str) -> None:
    assert text == written
