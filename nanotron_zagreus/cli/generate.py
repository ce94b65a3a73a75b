"""`zagreus generate`: continue a prompt with a converted model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nanotron_zagreus.cli.reporting import print_json, quiet_transformers


def generate(
    folder: Annotated[Path, typer.Argument(metavar="HF_DIR", help="Hugging Face folder made by `zagreus convert`.")],
    prompt: Annotated[list[str], typer.Option(help="Text to continue; may be given several times; - reads stdin.")],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 100,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample from this many of the most likely tokens; 0: all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Sample from the tokens that make up this probability.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens already seen become less likely.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: CUDA where there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print completions as JSON.")] = False,
) -> None:
    """Continue a prompt with a converted model.

    Example: `zagreus generate hf/5000 --prompt "A inteligência artificial é" --max-new-tokens 50`
    """
    from nanotron_zagreus.generation import Generator, Sampling

    sampling = Sampling(
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    quiet_transformers()
    generator = Generator(folder, device=device)
    texts = [sys.stdin.read() if text == "-" else text for text in prompt]
    for text in texts:
        generator.encode(text, max_new_tokens)  # refused before anything is printed
    completions = []
    for text in texts:
        show: Callable[[str], None] | None = None
        if not as_json:
            print(text, end="", flush=True)
            show = _print_piece
        completions.append(generator.complete(text, max_new_tokens=max_new_tokens, sampling=sampling, on_text=show))
        if not as_json:
            print("\n")
    if as_json:
        print_json(completions)


def _print_piece(text: str) -> None:
    print(text, end="", flush=True)
