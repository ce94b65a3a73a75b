"""Slips of the pen that would load and train nonsense are refused, field by field."""

from __future__ import annotations

import pytest

from nanotron_zagreus.config import Config, load_config_text
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.resources import find_config

PUBLISHED = find_config("zagreus_350M_por.yaml").read_text(encoding="utf-8")
SLIPS = {
    "an exponent without its minus, Adam": ("adam_eps: 1.0e-08", "adam_eps: 1e8", "adam_eps: got 100000000.0, "),
    "an exponent without its minus, norms": ("rms_norm_eps: 1.0e-05", "rms_norm_eps: 1e5", "rms_norm_eps: got 100000"),
    "a minus too many": ("rope_theta: 10000.0", "rope_theta: 1e-4", "rope_theta: got 0.0001, expected a number >= 1"),
    "no exponent": ("learning_rate: 0.003", "learning_rate: 3", "learning_rate: got 3.0, expected .* at most 1"),
    "tokenizer at home": (
        "path: meta-llama/Llama-3.2-1B",
        "path: ~/tok",
        "tokenizer_name_or_path: got '~/tok'; .* out",
    ),
    "tokenizer in a variable": ("path: meta-llama/Llama-3.2-1B", "path: $HF/tok", r"\$variables are not expanded"),
    "a section whose keys are gone": ("profiler: null", "zagreus:", "zagreus: got null, expected a section with keys"),
    "upstream's section": ("profiler: null", "metrics_logging: null", "did you mean 'logging'. If not, remove it"),
    "upstream's key": ("use_cache: true", "attention_bias: false", "attention_bias: unknown key; .* If not, remove it"),
}


def load(old: str, new: str) -> Config:
    assert PUBLISHED.count(old) == 1
    return load_config_text(PUBLISHED.replace(old, new), origin="run.yaml")


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_refused(name: str) -> None:
    old, new, message = SLIPS[name]
    with pytest.raises(InputError, match=message):
        load(old, new)


def test_all_keys_that_a_section_does_not_know_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        load("    seed: 8\n  name", "    seed: 8\n    shuffle_files: true\n    vocab_size: 4\n  name")
    assert "data.shuffle_files: unknown key; remove it" in str(caught.value)
    assert str(caught.value).endswith("; unknown here too: vocab_size")
    flat = "".join(f"  key{i}: 1\n" for i in range(50))
    with pytest.raises(InputError, match=r"unknown here too: key1, key2, .*, …$"):
        load("general:\n", f"general:\n{flat}")
    with pytest.raises(InputError, match=r"it belongs at .*\.adam_beta1, remove it here; unknown here too: adam_eps$"):
        load("optimizer:\n", "optimizer:\n  adam_beta1: 0.9\n  adam_eps: 1.0e-8\n")


def test_two_forms_of_a_section_are_expected_once() -> None:
    with pytest.raises(InputError) as caught:
        load("init_method:\n    std: 0.03227", "init_method: random")
    assert str(caught.value).endswith("model.init_method: got 'random', expected a section with keys")


@pytest.mark.parametrize("rate", ["1", "1e-6", "0.5"])
def test_a_learning_rate_up_to_one_is_a_learning_rate(rate: str) -> None:
    config = load("learning_rate: 0.003", f"learning_rate: {rate}")
    assert config.optimizer.learning_rate_scheduler.learning_rate == float(rate)


def test_neither_folder_nor_group_is_said_so() -> None:
    text = PUBLISHED.replace("dataset_folder:\n", "dataset_folder: null\n      tokenizer_names:\n")
    with pytest.raises(InputError, match="dataset_folder: got neither it nor dataset_groups"):
        load_config_text(text, origin="run.yaml")


def test_a_place_in_the_yaml_has_no_name_but_the_files() -> None:
    with pytest.raises(InputError, match=r"run\.yaml: not readable as YAML: .* at line 4, column 1") as caught:
        load_config_text(PUBLISHED + "}", origin="run.yaml")
    assert "unicode string" not in str(caught.value)
