"""A checkpoint's descriptions without weights: what a run reads before it decides where to begin."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config, dump_config
from nanotron_zagreus.data.mixture import open_mixture


def write_descriptions(config: Config, step: int) -> Path:
    """Write what ``config``'s run would say of itself after ``step``, make it the latest, and return its folder."""
    samples = step * config.samples_per_step
    general = dataclasses.replace(config.general, step=step, consumed_train_samples=samples)
    folder = layout.step_folder(config.checkpoints.checkpoints_path, step)
    folder.mkdir(parents=True)
    texts = {
        layout.CONFIG_FILE: dump_config(dataclasses.replace(config, general=general)),
        layout.MODEL_CONFIG_FILE: "{}",
        layout.METADATA_FILE: json.dumps({"metas": {"last_train_step": step, "consumed_train_samples": samples}}),
    }
    records = []
    for name, text in texts.items():
        path = folder / name
        path.write_text(text)
        size, digest = path.stat().st_size, manifest.hash_file(path)
        records.append(manifest.FileRecord(path=name, bytes=size, sha256=digest))
    facts = {
        "step": step,
        "consumed_samples": samples,
        "topology": {"dp": 1, "tp": 1, "pp": 1},
        "data": open_mixture(config).state(step),
    }
    manifest.write_manifest(folder, records, facts)
    layout.write_latest(config.checkpoints.checkpoints_path, step)
    return folder
