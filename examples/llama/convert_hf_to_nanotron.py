"""Turn a Hugging Face Llama into a Nanotron checkpoint; upstream's command over our converter.

    torchrun --nproc_per_node=1 -m examples.llama.convert_hf_to_nanotron \\
        --checkpoint_path=hf_weights --save_path=nanotron_weights [--tp N --pp N --format 0.4|main]

No GPU and no process group is used: `python -m` does the same.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser

from examples.llama.convert_nanotron_to_hf import with_dashes
from nanotron_zagreus.cli.app import run


def main(arguments: list[str]) -> int:
    """Run the import that ``arguments`` ask for; return the exit code."""
    parser = ArgumentParser(description="Convert a Hugging Face Llama to a Nanotron checkpoint")
    parser.add_argument("--checkpoint_path", required=True, help="Hugging Face folder")
    parser.add_argument("--save_path", required=True, help="checkpoint folder to make")
    known, rest = parser.parse_known_args(arguments)
    if int(os.environ.get("RANK", "0")) != 0:
        # torchrun with several ranks: one of them does the work.
        return 0
    return run(["import", known.checkpoint_path, known.save_path, *map(with_dashes, rest)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
