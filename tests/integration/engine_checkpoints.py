"""Write one random model with nanotron 0.4's own `save_weights`; started under torchrun by the conversion tests.

Arguments: any number of OUT:TP:PP:TIED(0|1):DTYPE, all of as many ranks. The weights depend on the seed and the
parameter names alone, so every layout writes the same model.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from nanotron_zagreus.engine.bringup import bring_up
from nanotron_zagreus.engine.launch import start_process_group

bring_up()
start_process_group()

from nanotron.config import ParallelismArgs  # noqa: E402
from nanotron.models.base import build_model  # noqa: E402
from nanotron.parallel import ParallelContext  # noqa: E402
from nanotron.serialize.weights import save_weights  # noqa: E402
from nanotron.trainer import mark_tied_parameters  # noqa: E402

from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu  # noqa: E402
from nanotron_zagreus.model.config import ModelOptions, ZagreusConfig  # noqa: E402
from nanotron_zagreus.model.zagreus import ZagreusForTraining  # noqa: E402

VOCAB_SIZE = 131


def main() -> None:
    for argument in sys.argv[1:]:
        out, tp, pp, tied, dtype = argument.split(":")
        write_model(Path(out), int(tp), int(pp), tied == "1", getattr(torch, dtype))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def write_model(out: Path, tp: int, pp: int, tied: bool, dtype: torch.dtype) -> None:
    config = ZagreusConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        vocab_size=-(-VOCAB_SIZE // tp) * tp, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=0,
        eos_token_id=1, tie_word_embeddings=tied,
    )  # fmt: skip
    parallelism = ParallelismArgs(dp=1, tp=tp, pp=pp, expert_parallel_size=1)
    with cuda_as_cpu():
        context = ParallelContext(tensor_parallel_size=tp, pipeline_parallel_size=pp, data_parallel_size=1)
        model = build_model(
            parallel_context=context,
            dtype=dtype,
            model_builder=lambda: ZagreusForTraining(
                config, context, parallelism, options=ModelOptions(vocab_size=VOCAB_SIZE)
            ),
        )
        mark_tied_parameters(model=model, parallel_context=context, parallel_config=parallelism)
        init = SimpleNamespace(init_method=SimpleNamespace(std=0.2))
        model.init_model_randomly(SimpleNamespace(general=SimpleNamespace(seed=3), model=init))
        with torch.no_grad():
            for name, param in model.named_parameters():
                if "norm" in name:
                    generator = torch.Generator().manual_seed(sum(name.encode()))
                    param.copy_(1 + 0.3 * torch.randn(param.shape, generator=generator))
        save_weights(model, context, out)
    if torch.distributed.get_rank() == 0:
        (out / "model_config.json").write_text(json.dumps(dataclasses.asdict(config)))


if __name__ == "__main__":
    main()
