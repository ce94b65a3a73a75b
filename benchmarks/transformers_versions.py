"""Show that a converted folder loads alike in every transformers from 4.40 to 5.x.

    python -m benchmarks.transformers_versions [--work DIR] [--versions 4.40.2,4.46.3,4.57.3,5.23.0]

Makes small checkpoints (tied or not, bf16 or fp32, from tp=5 with a padded vocabulary and interleaved rotary
pairs, or plain; one or several files; a tokenizer saved by transformers 5, and one as Llama 3's repository has
it), converts them, and loads each folder in a virtual environment per version. Prints one table; exits with 1
when any version differs from this environment's. The environments are kept in DIR for the next run (about
1 GB each).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder

VERSIONS = "4.40.2,4.46.3,4.57.3,5.23.0"
REQUIREMENTS = {"4.40.2": ["numpy<2"]}
"""Beside transformers and torch; 4.40 was built before numpy 2."""
PROBE = Path(__file__).with_name("transformers_probe.py")

FOLDERS: dict[str, dict[str, Any]] = {
    "tied bf16": {"dtype": torch.bfloat16},
    "untied fp32": {"dtype": torch.float32, "tied": False},
    "tp=5, padded, interleaved": {"dtype": torch.bfloat16, "tp": 5, "interleaved": True},
    "several files": {"dtype": torch.bfloat16, "max_file_bytes": 60_000},
    "Llama-style tokenizer": {"dtype": torch.bfloat16, "llama_tokenizer": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "zagreus-transformers")
    parser.add_argument("--versions", default=VERSIONS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    versions = arguments.versions.split(",")
    pythons = {version: environment(arguments.work / f"transformers-{version}", version) for version in versions}
    is_equal = True
    print("| Folder | transformers | max logit difference | tokens | theta | tied | greedy text | bf16 dtype kept |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, options) in enumerate(FOLDERS.items()):
            folder = make_folder(Path(scratch) / str(number), **options)
            wanted = probe(Path(sys.executable), folder)
            for python in pythons.values():
                found = probe(python, folder)
                same = {key: found[key] == wanted[key] for key in ("token_ids", "theta", "is_tied", "text", "dtype")}
                difference = max(abs(a - b) for a, b in zip(found["logits"], wanted["logits"], strict=True))
                is_equal &= all(same.values()) and difference == 0.0
                marks = " | ".join("same" if ok else "DIFFERS" for ok in same.values())
                print(f"| {name} | {found['version']} | {difference:.1e} | {marks} |", flush=True)
    return 0 if is_equal else 1


def environment(folder: Path, version: str) -> Path:
    """Return the interpreter of a virtual environment with that transformers, made if need be."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    probe_import = [str(python), "-c", "import torch, transformers, accelerate"]
    if subprocess.run(probe_import, capture_output=True, check=False).returncode:
        packages = [f"torch=={torch.__version__.split('+')[0]}", f"transformers=={version}", "accelerate"]
        install = [str(python), "-m", "pip", "install", "-q", *packages, *REQUIREMENTS.get(version, [])]
        subprocess.run(install, check=True)
    return python


def make_folder(
    root: Path,
    *,
    dtype: torch.dtype,
    tied: bool = True,
    tp: int = 1,
    interleaved: bool = False,
    max_file_bytes: int | None = None,
    llama_tokenizer: bool = False,
) -> Path:
    """Return a converted folder made to these options."""
    arch = replace(TINY, vocab_size=260, tie_word_embeddings=tied, rope_interleaved=interleaved)
    write_checkpoint(root / "20", arch, tp=tp, dtype=dtype)
    tokenizer = write_tokenizer_folder(root / "tokenizer", 260)
    if llama_tokenizer:
        make_llama_style(tokenizer)
    convert_checkpoint(root / "20", root / "hf", tokenizer, max_file_bytes=max_file_bytes)
    return root / "hf"


def make_llama_style(folder: Path) -> None:
    """Give the tokenizer what Llama 3's has: its split, a post-processor that adds BOS, merges as text."""
    from nanotron_zagreus.conversion.gguf_tokenizer import LLAMA_3_SPLIT

    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA_3_SPLIT}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    data["model"]["merges"] = [
        " ".join(merge) if isinstance(merge, list) else merge for merge in data["model"]["merges"]
    ]
    data["model"]["ignore_merges"] = True
    data["added_tokens"] = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for index, token in enumerate(("<s>", "</s>"))
    ]  # fmt: skip
    path.write_text(json.dumps(data, ensure_ascii=False))
    config = {
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in data["added_tokens"]
        },
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def probe(python: Path, folder: Path) -> dict[str, Any]:
    """Return what one interpreter's transformers makes of a folder."""
    done = subprocess.run(
        [str(python), str(PROBE), str(folder)],
        # PYTHONSAFEPATH: this folder's tokenize.py would stand for the library's in the script's own path.
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{python} cannot load {folder}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
