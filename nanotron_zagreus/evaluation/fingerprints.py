"""A short fingerprint of a model's files, so that results are never taken for those of other weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nanotron_zagreus.errors import InputError

# What decides a model's answers: weights, shapes, tokenizer. Cards and training states do not.
_PATTERNS = (
    "*.safetensors",
    "pytorch_model*.bin",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template*",
    "model_config.json",
    "model/**/*.safetensors",
)


def model_fingerprint(folder: Path, extra: str = "") -> str:
    """Return 16 hexadecimal digits of a SHA-256 over the names and contents of the model's files.

    Args:
        folder: a Hugging Face folder, or a checkpoint in Nanotron's layout.
        extra: more that decides the answers, such as the tokenizer a checkpoint is converted with.

    Raises:
        InputError: the folder holds no weights.
    """
    paths = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix in (".safetensors", ".bin") for path in paths):
        raise InputError(f"{folder}: holds no weights (*.safetensors); the model was not written whole, use another")
    total = hashlib.sha256(extra.encode())
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        total.update(str(path.relative_to(folder)).encode() + b"\0" + digest)
    return total.hexdigest()[:16]
