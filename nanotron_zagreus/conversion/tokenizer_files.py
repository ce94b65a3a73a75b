"""Check a tokenizer's files against the model, and write them so that every transformers loads them.

Files are copied byte for byte where they can be. Rewritten is what transformers 4 cannot read of what version 5 saves,
the class `TokenizersBackend` and BPE merges stored as lists; a class that does not read tokenizer.json as it is, which
is what made the data; and the name of a token that tokenizer.json lacks, for which transformers would make up an id.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints.architecture import Architecture, read_json
from nanotron_zagreus.conversion.hf_config import write_json
from nanotron_zagreus.conversion.record import public_name
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.file_hash import hash_file
from nanotron_zagreus.tokenizer_lookup import CONFIG_FILE, MAIN_FILE, LocatedTokenizer, locate_tokenizer

_PORTABLE_CLASS = "PreTrainedTokenizerFast"
"""Reads tokenizer.json and nothing else, in every transformers. Others, Llama's among them, are made anew from
vocabulary and merges by transformers 5, with the normalizer and word split of their own model; and to a tokenizer of
Llama's class without <unk> transformers 4 adds one, with an id that the model has no row for."""
_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_LLAMA_DEFAULTS = {"padding_side": "left", "clean_up_tokenization_spaces": False}
"""What Llama's class does where its configuration says nothing, and the portable one (the second before transformers
4.45) does not; on the left, because a batch of prompts goes on at its right."""
_DROPPED = ("backend", "is_local", "auto_map")
_SPECIAL_FILE = "special_tokens_map.json"
_PATHS = ("name_or_path", "tokenizer_file", "special_tokens_map_file")
"""Where the files lay on the machine that saved them, as older transformers wrote and none reads."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer on disk, and what the model must agree with."""

    name: str
    """What the user called it: a hub id, a folder or a file."""
    main: Path
    """Its `tokenizer.json`."""
    others: tuple[Path, ...]
    config_path: Path | None
    """Its `tokenizer_config.json`, when there is one."""
    config: dict[str, Any]
    vocabulary: dict[str, int]
    """Token -> id, added tokens included."""

    @property
    def public_name(self) -> str:
        """Its hub id, or the name of the folder or file that it was read from."""
        return public_name(self.name)

    @property
    def sha256(self) -> str:
        """SHA-256 of `tokenizer.json`, as `zagreus tokenize` records it beside the shards."""
        return hash_file(self.main)

    @property
    def num_tokens(self) -> int:
        """Highest token id plus one."""
        return max(self.vocabulary.values(), default=-1) + 1

    def special_id(self, role: str) -> int | None:
        """Return the id of the token the tokenizer's config names for ``role`` (`bos`, `eos`, `pad`), if any."""
        token = self.config.get(f"{role}_token")
        if isinstance(token, dict):
            token = token.get("content")
        return self.vocabulary.get(token) if isinstance(token, str) else None


def find_tokenizer(name: str | Path) -> TokenizerFiles:
    """Return the tokenizer called ``name``: a `tokenizer.json`, a folder that holds one, or a hub id.

    Raises:
        MissingInputError: nothing by that name here, in the cache, or on the hub.
        InputError: its files cannot be read.
    """
    return read_tokenizer(name, locate_tokenizer(name))


def read_tokenizer(name: str | Path, located: LocatedTokenizer) -> TokenizerFiles:
    """Return the tokenizer that the user called ``name`` and whose files were found.

    Raises:
        InputError: they cannot be read.
    """
    return TokenizerFiles(
        name=str(name),
        main=located.main,
        others=tuple(path for path in located.siblings if path != located.config),
        config_path=located.config,
        config=read_json(located.config) if located.config else {},
        vocabulary=_read_vocabulary(located.main),
    )


def write_tokenizer(tokenizer: TokenizerFiles, out: Path, arch: Architecture) -> list[str]:
    """Write the tokenizer's files into ``out``; return what was changed on the way."""
    notices = []
    if _write_string_merges(tokenizer.main, out / MAIN_FILE):
        notices.append("tokenizer.json: BPE merges rewritten from pairs to text, which transformers before 4.45 needs")
    else:
        shutil.copyfile(tokenizer.main, out / MAIN_FILE)
    for path in tokenizer.others:
        shutil.copyfile(path, out / path.name)
    unknown = set[str]()
    if (out / _SPECIAL_FILE).is_file():
        named = read_json(out / _SPECIAL_FILE)
        known = _known_only(named, tokenizer.vocabulary, unknown)
        if known != named:
            write_json(out / _SPECIAL_FILE, known)
    config = _portable_config(tokenizer, arch, unknown)
    if tokenizer.config_path and config == tokenizer.config:
        shutil.copyfile(tokenizer.config_path, out / CONFIG_FILE)
    else:
        write_json(out / CONFIG_FILE, config)
        notices.append(f"tokenizer_config.json: written for transformers 4 and 5 alike ({config['tokenizer_class']})")
    if unknown:
        notices.append(
            f"{', '.join(map(repr, sorted(unknown)))}: named by {CONFIG_FILE} and left out: {MAIN_FILE} has no such "
            "token, and transformers would give it an id that the model has no row for"
        )
    return notices


def _read_vocabulary(path: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: not readable as a tokenizer: {error}") from error


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Return a `tokenizer.json` as plain data; `find_tokenizer` has checked that it is one."""
    return json.loads(path.read_text(encoding="utf-8"))


def _write_string_merges(source: Path, target: Path) -> bool:
    """Write ``source`` with its merges as text if they are pairs; return whether that was done.

    Pairs came with tokenizers 0.20; a merge whose parts hold a space can only be a pair and stays one.
    """
    data = read_tokenizer_json(source)
    merges = (data.get("model") or {}).get("merges")
    if not merges or not isinstance(merges[0], list) or any(" " in part for pair in merges for part in pair):
        return False
    data["model"]["merges"] = [" ".join(pair) for pair in merges]
    target.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    return True


def _portable_config(tokenizer: TokenizerFiles, arch: Architecture, unknown: set[str]) -> dict[str, Any]:
    """Return `tokenizer_config.json` in words that transformers 4 and 5 both know; add what was left out to the set."""
    config = {key: value for key, value in tokenizer.config.items() if key not in _DROPPED}
    config = _known_only(config, tokenizer.vocabulary, unknown)
    for key in _PATHS:
        if isinstance(config.get(key), str) and public_name(config[key]) != config[key]:
            del config[key]
    if config.get("tokenizer_class") in _LLAMA_CLASSES:
        config = _LLAMA_DEFAULTS | config
    config["tokenizer_class"] = _PORTABLE_CLASS
    # Without it this class also returns token_type_ids, which Llama's generate refuses in transformers 4.40.
    config.setdefault("model_input_names", ["input_ids", "attention_mask"])
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):
        # Version 5 writes a list here; version 4 expects a mapping and calls the list by its old name.
        del config["extra_special_tokens"]
        config.setdefault("additional_special_tokens", extra)
    if tokenizer.config_path is None:
        config["clean_up_tokenization_spaces"] = False
        config["model_max_length"] = arch.max_position_embeddings
    # No other token: what has a role is cut out of any text, and left out of what is generated.
    added = read_tokenizer_json(tokenizer.main).get("added_tokens") or []
    special = {token["id"]: token["content"] for token in added if token.get("special")}
    ids = {"bos": arch.bos_token_id, "eos": arch.first_eos_token_id, "pad": arch.pad_token_id}
    for role, index in ids.items():
        if not config.get(f"{role}_token") and index in special:
            config[f"{role}_token"] = special[index]
    return config


def _known_only(config: dict[str, Any], vocabulary: dict[str, int], unknown: set[str]) -> dict[str, Any]:
    """Return ``config`` without the tokens it names that the vocabulary lacks; add these to ``unknown``."""

    def is_known(token: Any) -> bool:
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str) or text in vocabulary:
            return True
        unknown.add(text)
        return False

    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key.endswith("special_tokens") and isinstance(value, list):
            kept[key] = [token for token in value if is_known(token)]
        elif key in ("extra_special_tokens", "added_tokens_decoder") and isinstance(value, dict):
            kept[key] = {name: token for name, token in value.items() if is_known(token)}
        elif not key.endswith("_token") or is_known(value):
            kept[key] = value
    return kept
