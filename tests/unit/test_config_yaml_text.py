"""YAML that means something else than it looks like, or that is built to exhaust memory, is refused quickly."""

from __future__ import annotations

import time

import pytest

from nanotron_zagreus.config.yaml_text import parse_yaml
from nanotron_zagreus.errors import InputError


def nested_aliases(levels: int, width: int) -> str:
    """Return lists that refer to the list before them, ``width`` times: width^levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def nested_merges(levels: int, width: int) -> str:
    """Return mappings that merge the mapping before them, ``width`` times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


REFUSED = {
    "empty": ("", "mapping"),
    "a list": ("- 1", "mapping"),
    "a tab": ("a:\n\tb: 1", "not readable"),
    "a NUL": ("a: \x00", "not readable"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "a key twice": ("tokens: 1\ntokens: 2", "twice"),
    "a key twice, deep": ("tokens: {a: 1, a: 2}", "twice"),
    "a list as key": ("? [a]\n: 1", "key"),
    "a set as key": ("? !!set {a}\n: 1", "key"),
    "an octal number": ("a: 010", "010"),
    "a base-60 number": ("a: 1:30", "1:30"),
    "a base-60 fraction": ("a: 1:30.5", "1:30.5"),
    "a 5000-digit number": ("a: " + "9" * 5000, "cannot read"),
    "a date that is none": ("a: 2024-99-99", "cannot read"),
    "a tag on nonsense": ("a: !!timestamp x", "cannot read"),
    "a Python object": ("a: !!python/object/apply:os.getcwd []", "tag"),
    "a list in itself": ("a: &a [*a]", "aliases"),
    "a bomb of aliases": (nested_aliases(30, 9), "aliases"),
    "deep nesting": ("[" * 1200, "nested"),
    "five megabytes": ("a: " + "x" * 5_000_000, "bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_strange_yaml_is_refused_within_a_second(name: str) -> None:
    text, key_word = REFUSED[name]
    start = time.process_time()
    with pytest.raises(InputError, match=key_word) as caught:
        parse_yaml(text, "run.yaml")
    assert time.process_time() - start < 1
    assert str(caught.value).startswith("run.yaml: ")
    assert len(str(caught.value)) < 600


def test_a_bomb_of_merges_is_refused_or_harmless() -> None:
    start = time.process_time()
    try:
        read = parse_yaml(nested_merges(9, 9), "run.yaml")
    except InputError as error:  # PyYAML before 6.0.4 has every key once for each way to it
        assert str(error).startswith("run.yaml: ") and "merged" in str(error) and len(str(error)) < 600
    else:
        assert read == {f"a{level}": {"x": 1} for level in range(9)}
    assert time.process_time() - start < 1


def test_ordinary_aliases_and_merges_work() -> None:
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nagain: *base\nzero: 0\nhex: 0x1F\nbig: 1_000\n"
    assert parse_yaml(text, "x") == {
        "base": {"a": 1, "b": 2},
        "other": {"a": 1, "b": 3},
        "again": {"a": 1, "b": 2},
        "zero": 0,
        "hex": 31,
        "big": 1000,
    }
