"""`zagreus convert` and `import`: between Nanotron checkpoints and Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanotron_zagreus.cli.generate import generate
from nanotron_zagreus.cli.publish import card, print_push, push
from nanotron_zagreus.cli.reporting import check_choice, print_json, print_outcome, print_record, progress_bar


def register(app: typer.Typer) -> None:
    """Add the stage's subcommands to ``app``."""
    app.command("convert")(convert)
    app.command("import")(import_)
    app.command("generate")(generate)
    app.command("card")(card)
    app.command("push")(push)


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="One step's folder, or the folder of all steps (its newest).")],
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist or be empty.")],
    tokenizer: Annotated[str, typer.Option(help="Tokenizer of the run: a folder, a tokenizer.json, or a hub id.")],
    dtype: Annotated[str | None, typer.Option(help="bfloat16 or float32; default: the checkpoint's.")] = None,
    masters: Annotated[bool, typer.Option("--masters", help="Export the optimizer's fp32 master weights.")] = False,
    gguf: Annotated[str | None, typer.Option(help="Also write a GGUF file: F32, BF16 or Q8_0.")] = None,
    max_file_size: Annotated[str | None, typer.Option(help="Divide the weights into files, such as 2GB.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Vocabulary rows to keep, if not the tokenizer's.")] = None,
    special_tokens: Annotated[
        str, typer.Option(help="When bos/eos of tokenizer and model differ: agree (refuse), tokenizer, or config.")
    ] = "agree",
    accept_tokenizer: Annotated[
        bool, typer.Option("--accept-tokenizer", help="Take a tokenizer whose file is not the training data's.")
    ] = False,
    verify: Annotated[bool, typer.Option(help="Prove that the result computes what the checkpoint computes.")] = True,
    details: Annotated[
        Path | None, typer.Option("--card", help="YAML with languages, license, … for the card.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="lm-eval results for the card: a file or folder.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="Then push to this hub repository.")] = None,
    branch: Annotated[str | None, typer.Option(help="Branch to push to; auto: step…-tokens…; default: main.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="What a new hub repository becomes.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Convert, and only say what would be pushed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the conversion record as JSON.")] = False,
) -> None:
    """Turn a Nanotron checkpoint into a Hugging Face folder, verified before it appears.

    Example: `zagreus convert checkpoints/5000 hf/5000 --tokenizer meta-llama/Llama-3.2-1B`
    """
    from nanotron_zagreus.conversion.model_card import read_card_details
    from nanotron_zagreus.conversion.to_hf import convert_checkpoint

    check_choice("--dtype", dtype, (None, "bfloat16", "float32"))
    check_choice("--gguf", gguf, (None, "F32", "BF16", "Q8_0"))
    check_choice("--special-tokens", special_tokens, ("agree", "tokenizer", "config"))
    _check_push(push_to_hub, branch, dry_run=dry_run, verify=verify)
    with progress_bar() as report:
        record = convert_checkpoint(
            checkpoint,
            out,
            tokenizer,
            dtype=dtype,  # type: ignore[arg-type]
            verify=verify,
            vocab_size=vocab_size,
            special_tokens=special_tokens,  # type: ignore[arg-type]
            accept_tokenizer=accept_tokenizer,
            masters=masters,
            max_file_bytes=None if max_file_size is None else parse_size(max_file_size),
            gguf=gguf,  # type: ignore[arg-type]
            card=None if details is None else read_card_details(details),
            results=results,
            progress=report,
        )
    if as_json:
        print_json(record)
    else:
        print_record(record, out)
    if push_to_hub is not None:
        print_push(out, push_to_hub, branch=branch, private=private, dry_run=dry_run, to_stderr=as_json)


def _check_push(repository: str | None, branch: str | None, *, dry_run: bool, verify: bool) -> None:
    """Refuse, before any work, options of pushing that contradict each other."""
    from nanotron_zagreus.conversion.hub import check_repository
    from nanotron_zagreus.errors import InputError

    if repository is None:
        for flag, given in (("--dry-run", dry_run), ("--branch", branch is not None)):
            if given:
                raise InputError(f"{flag}: means nothing without --push-to-hub; name a repository, or leave it away")
        return
    check_repository(repository)
    if not verify:
        raise InputError("--no-verify: what was not verified is not pushed; leave it or --push-to-hub away")


def import_(
    hf_dir: Annotated[Path, typer.Argument(metavar="HF_DIR", help="Hugging Face folder of a Llama model.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to make; it must not exist or be empty.")],
    tp: Annotated[int, typer.Option(help="Tensor-parallel size to write for; training reads any.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline-parallel size to write for; training reads any.")] = 1,
    engine: Annotated[
        str, typer.Option("--format", help="Whose files to write: nanotron 0.4 or upstream main.")
    ] = "0.4",
    dtype: Annotated[str | None, typer.Option(help="bfloat16 or float32; default: the folder's.")] = None,
    make_vocab_size_divisible_by: Annotated[int, typer.Option(help="The training configuration's value.")] = 1,
    verify: Annotated[bool, typer.Option(help="Prove that the result computes what the folder computes.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the import record as JSON.")] = False,
) -> None:
    """Turn a Hugging Face Llama into a checkpoint that training starts from by `init_method.path`.

    Example: `zagreus import hf/zagreus-0.4B-por checkpoints/imported --tp 5`
    """
    from nanotron_zagreus.conversion.from_hf import import_folder
    from nanotron_zagreus.conversion.model_section import MODEL_SECTION_FILE, section_text

    check_choice("--dtype", dtype, (None, "bfloat16", "float32"))
    check_choice("--format", engine, ("0.4", "main"))
    with progress_bar() as report:
        record = import_folder(
            hf_dir,
            out,
            tp=tp,
            pp=pp,
            engine=engine,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            make_vocab_size_divisible_by=make_vocab_size_divisible_by,
            verify=verify,
            progress=report,
        )
    if as_json:
        print_json(record)
        return
    print(f"{out}: {record.dtype} checkpoint for tp={tp} pp={pp}, in the format of nanotron {record.engine}")
    print_outcome(record.notices, record.verification)
    print(f"  to train from it, this in the configuration (also in {out / MODEL_SECTION_FILE}):")
    print(section_text(record.model_section), end="")


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means: a number with KB, MB or GB (powers of 1000, as the hub counts)."""
    import re

    from nanotron_zagreus.errors import InputError

    match = re.fullmatch(r"(\d{1,12})\s*(KB|MB|GB)?", text.strip(), re.IGNORECASE)
    if not match or int(match[1]) == 0:
        raise InputError(f"--max-file-size: got {text!r}, expected a size such as 500MB or 2GB")
    return int(match[1]) * {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[(match[2] or "").upper()]
