"""An imported checkpoint that is not its source is caught by each gate; a correct one passes all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nanotron_zagreus.conversion.from_hf import import_folder
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.conversion.verify_import import verify_checkpoint
from nanotron_zagreus.errors import InputError, VerificationError
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint, and the Hugging Face folder it was imported from, rounded to bfloat16 on the way."""
    write_checkpoint(tmp_path / "source", dtype=torch.float32)
    convert_checkpoint(tmp_path / "source", tmp_path / "hf", write_tokenizer_folder(tmp_path / "t"), verify=False)
    import_folder(tmp_path / "hf", tmp_path / "imported", dtype="bfloat16", tp=5, verify=False)
    return tmp_path / "imported", tmp_path / "hf"


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_correct_import_passes(pair: tuple[Path, Path]) -> None:
    assert verify_checkpoint(*pair, TINY, "BF16").top1_agreement == 1.0


def test_another_configuration_on_either_side_is_caught(pair: tuple[Path, Path]) -> None:
    checkpoint, hf = pair
    change(hf / "config.json", max_position_embeddings=512)
    with pytest.raises(VerificationError, match="max_position_embeddings = 512, the checkpoint 256"):
        verify_checkpoint(checkpoint, hf, TINY, "BF16")
    change(checkpoint / "model_config.json", rms_norm_eps=1e-6)
    with pytest.raises(VerificationError, match=r"model_config\.json: reads back as"):
        verify_checkpoint(checkpoint, hf, TINY, "BF16")


def test_another_weight_and_one_too_many_are_caught(pair: tuple[Path, Path]) -> None:
    checkpoint, hf = pair
    layers = checkpoint / "model/model/decoder"
    shutil.copytree(layers / "2", layers / "3")
    with pytest.raises(InputError, match=r"do not belong.*decoder\.3"):
        verify_checkpoint(checkpoint, hf, TINY, "BF16")
    shutil.rmtree(layers / "3")
    (norm,) = (layers / "2/pp_block/input_layernorm").iterdir()
    save_file({"data": torch.ones(TINY.hidden_size, dtype=torch.bfloat16)}, norm)
    with pytest.raises(VerificationError, match=r"decoder\.2.*input_layernorm.*elements differ"):
        verify_checkpoint(checkpoint, hf, TINY, "BF16")
