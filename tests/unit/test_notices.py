"""What a configuration is told follows from its values and from what this machine holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.notices import machine_notices, missing_tokenizer, notices
from tests.unit.config_fixtures import edited


def one_notice(config: Config, key_word: str) -> str | None:
    """Return the only notice with ``key_word`` in it, or None."""
    found = [text for text in notices(config) if key_word in text]
    assert len(found) <= 1
    return found[0] if found else None


def test_the_published_notices() -> None:
    config = edited()
    for key_words in (
        ["2,000,000 steps", "1,048,576 tokens", "2.1T"],
        ["minimum at step 800,000", "1,200,000 steps (60% of the run)", "1e-07"],
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
        ("val_check_interval", {"tokens__val_check_interval": 0}),
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


def test_a_rate_that_does_not_fall_has_no_decay_to_finish() -> None:
    for lowest in (None, 0.003):
        schedule = {"lr_decay_steps": None, "min_decay_lr": lowest}
        changes = {f"optimizer__learning_rate_scheduler__{name}": value for name, value in schedule.items()}
        assert one_notice(edited(**changes), "would end at step") is None


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
    for found in ("auto", str(tmp_path)):
        going_on = edited(checkpoints__resume_checkpoint_path=found)
        assert not any("resume_checkpoint_path" in text for text in machine_notices(going_on))
    from_other = edited(model__init_method={"path": str(tmp_path / "none")})
    assert any("init_method.path" in text for text in machine_notices(from_other))
