"""Turn a Nanotron checkpoint into a Hugging Face folder; upstream's command over our converter.

    torchrun --nproc_per_node=1 -m examples.llama.convert_nanotron_to_hf \\
        --checkpoint_path=checkpoints/<step> --save_path=hf_checkpoints/<step> \\
        --tokenizer_name meta-llama/Llama-3.2-1B

No GPU and no process group is used: `python -m` does the same.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser

from nanotron_zagreus.cli.app import run


def main(arguments: list[str]) -> int:
    """Run the conversion that ``arguments`` ask for; return the exit code."""
    parser = ArgumentParser(description="Convert a Nanotron checkpoint to a Hugging Face folder")
    parser.add_argument("--checkpoint_path", required=True, help="folder of one step of the checkpoint")
    parser.add_argument("--save_path", required=True, help="folder to make")
    parser.add_argument("--tokenizer_name", required=True, help="the run's tokenizer: hub id, folder or tokenizer.json")
    parser.add_argument("--config_cls", default="LlamaConfig", help="upstream's flag; model_config.json says it here")
    known, rest = parser.parse_known_args(arguments)
    if int(os.environ.get("RANK", "0")) != 0:
        # torchrun with several ranks: one of them does the work.
        return 0
    return run(
        [
            "convert",
            known.checkpoint_path,
            known.save_path,
            "--tokenizer",
            known.tokenizer_name,
            *map(with_dashes, rest),
        ]
    )


def with_dashes(argument: str) -> str:
    """Return an option in this project's spelling: upstream's words have underscores."""
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value if argument.startswith("--") else argument


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
