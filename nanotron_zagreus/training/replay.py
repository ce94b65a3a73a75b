"""Show the samples of a step: where they come from, and their text."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.errors import InputError, VerificationError


def replay_step(config_file: str | Path, step: int, *, tokenizer: str | None, max_tokens: int, as_json: bool) -> None:
    """Print the samples of ``step`` in the order of the global batch.

    Args:
        config_file: the run's YAML, or a checkpoint's config.yaml.
        step: counted from 1.
        tokenizer: hub id, folder or tokenizer.json; None: the configuration's.
        max_tokens: tokens decoded of each sample.
        as_json: print one JSON object per sample instead, with all its tokens.
    """
    config, progress = _as_trained(load_config(config_file), step)
    mixture = open_mixture(config, progress=progress)
    ids = mixture.samples_of_step(step)
    tokens = mixture.read(ids)
    decode = None if as_json and tokenizer is None else _decoder(tokenizer or config.tokenizer.tokenizer_name_or_path)
    for position, (sample, row) in enumerate(zip(ids, tokens, strict=True)):
        source = mixture.sources[sample.source]
        place = {
            "sample": position,
            "stage": config.data_stages[sample.stage].name,
            "shard": str(source.shards[sample.shard].path),
            "window": sample.window,
            "epoch": sample.epoch,
        }
        if as_json:
            print(json.dumps({**place, "tokens": row.tolist()} | ({"text": decode(row.tolist())} if decode else {})))
        elif decode is not None:
            text = decode(row[:max_tokens].tolist())
            print(f"[{position}] {place['stage']} | {place['shard']} window {sample.window} epoch {sample.epoch}")
            print(f"  {text!r}")


def _as_trained(config: Config, step: int) -> tuple[Config, dict[str, Any] | None]:
    """Return arguments for `open_mixture` with what checkpoints record of the steps up to ``step``.

    A run that was resumed with another batch drew its earlier samples in steps of another size; only its checkpoints
    know. The record of the first one after the step is the whole history, and nothing later.
    """
    root = config.checkpoints.checkpoints_path
    saved = layout.list_steps(root)
    ordered = [s for s in saved if s >= step] + [s for s in reversed(saved) if s < step]
    folders = [layout.step_folder(root, number) for number in ordered]
    wanted = config.checkpoints.resume_checkpoint_path
    if wanted is not None and str(wanted) != "auto":
        with contextlib.suppress(InputError):
            folders.append(layout.resolve_checkpoint(wanted))
    accepting = dataclasses.replace(config, zagreus=dataclasses.replace(config.zagreus, accept_changed_batch=True))
    for folder in folders:
        with contextlib.suppress(InputError, VerificationError, KeyError):  # an import's has none
            return accepting, manifest.read_manifest(folder)["data"]
    return config, None


def _decoder(name: str):  # type: ignore[no-untyped-def]
    """Return a function from token ids to text."""
    from tokenizers import Tokenizer

    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        loaded = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:
        raise InputError(
            f"tokenizer: {name!r} could not be loaded ({error}); give --tokenizer a folder or file"
        ) from error
    return lambda tokens: loaded.decode(tokens, skip_special_tokens=False)
