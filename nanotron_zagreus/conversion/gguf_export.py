"""Write a GGUF file (llama.cpp's format) from a converted Hugging Face folder, and read it back.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Norms stay in float32, as llama.cpp's own
converter keeps them; q and k are stored with rotary pairs interleaved, the order llama.cpp rotates.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, Literal

from nanotron_zagreus.checkpoints.architecture import Architecture
from nanotron_zagreus.conversion.gguf_tokenizer import add_tokenizer, name_word_split
from nanotron_zagreus.conversion.progress import Progress, silent
from nanotron_zagreus.conversion.record import GGUFRecord, WrittenFile
from nanotron_zagreus.conversion.tensor_reading import HFTensors
from nanotron_zagreus.conversion.tokenizer_files import TokenizerFiles, find_tokenizer
from nanotron_zagreus.conversion.weight_map import interleave
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.file_hash import hash_file

GGUFType = Literal["F32", "BF16", "Q8_0"]

_Q8_BLOCK = 32
"""Weights that share one scale in Q8_0."""

_OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def check_gguf(arch: Architecture, tokenizer: TokenizerFiles, gguf_type: GGUFType) -> None:
    """Refuse a model or tokenizer that the GGUF type cannot hold, before anything is written."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "--gguf: needs the gguf package; install it with `pip install nanotron-zagreus[gguf]`"
        ) from error
    name_word_split(tokenizer)
    if gguf_type == "Q8_0":
        for name in ("hidden_size", "intermediate_size"):
            size = getattr(arch, name)
            if size % _Q8_BLOCK:
                raise InputError(f"--gguf Q8_0: {name} {size} is no multiple of {_Q8_BLOCK}; use BF16 or F32")


def gguf_file_name(gguf_type: GGUFType) -> str:
    """Return the name of the file in the folder."""
    return f"model-{gguf_type}.gguf"


def write_gguf(
    folder: Path,
    arch: Architecture,
    gguf_type: GGUFType,
    *,
    verify: bool = True,
    progress: Progress = silent,
) -> GGUFRecord:
    """Write `model-<type>.gguf` into a converted folder, one tensor in memory at a time; return its record.

    Raises:
        VerificationError: read back, it does not compute what the folder computes.
    """
    import gguf
    import numpy as np

    path = folder / gguf_file_name(gguf_type)
    tensors = HFTensors.open(folder)
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, folder, arch, gguf_type)
    kinds = {name: _stored_type(tensors.shapes[name], gguf_type) for name in tensors.names}
    for name, kind in kinds.items():
        shape = tensors.shapes[name]
        byte_shape = gguf.quant_shape_to_byte_shape(shape, kind)
        num_bytes = prod(byte_shape)
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor_info(_gguf_name(name), shape, np.dtype(np.float32), num_bytes)
        else:
            writer.add_tensor_info(_gguf_name(name), byte_shape, np.dtype(np.uint8), num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, (name, kind) in enumerate(kinds.items(), start=1):
        progress("gguf", done, len(kinds))
        weights = _interleave(name, tensors.read(name).float(), arch).numpy()
        writer.write_tensor_data(gguf.quantize(weights, kind))
    writer.close()
    file = WrittenFile(name=path.name, num_bytes=path.stat().st_size, sha256=hash_file(path))
    if not verify:
        return GGUFRecord(file=file, type=gguf_type)
    from nanotron_zagreus.conversion.gguf_verify import verify_gguf

    return GGUFRecord(file=file, type=gguf_type, **verify_gguf(folder, path, arch, gguf_type))


def _add_metadata(writer: Any, folder: Path, arch: Architecture, gguf_type: GGUFType) -> None:
    """Add the model's sizes and its tokenizer."""
    import gguf

    file_types = {
        "F32": gguf.LlamaFileType.ALL_F32,
        "BF16": gguf.LlamaFileType.MOSTLY_BF16,
        "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(file_types[gguf_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(arch.max_position_embeddings)
    writer.add_embedding_length(arch.hidden_size)
    writer.add_block_count(arch.num_hidden_layers)
    writer.add_feed_forward_length(arch.intermediate_size)
    writer.add_head_count(arch.num_attention_heads)
    writer.add_head_count_kv(arch.num_key_value_heads)
    writer.add_key_length(arch.head_dim)
    writer.add_value_length(arch.head_dim)
    writer.add_rope_dimension_count(arch.head_dim)
    writer.add_rope_freq_base(arch.rope_theta)
    writer.add_layer_norm_rms_eps(arch.rms_norm_eps)
    writer.add_vocab_size(arch.vocab_size)
    add_tokenizer(writer, folder, find_tokenizer(folder), arch)


def _gguf_name(name: str) -> str:
    """Return GGUF's name of a Hugging Face tensor."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _interleave(name: str, weights: Any, arch: Architecture) -> Any:
    """Return q and k with each head's rows (i, i + head_dim/2) moved to (2i, 2i+1); other tensors as they are."""
    heads = {"q_proj": arch.num_attention_heads, "k_proj": arch.num_key_value_heads}.get(name.split(".")[-2])
    return weights if heads is None else interleave(weights, heads)


def _stored_type(shape: tuple[int, ...], gguf_type: GGUFType) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[gguf_type if len(shape) > 1 else "F32"]
