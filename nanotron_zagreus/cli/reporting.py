"""What the conversion commands print: progress on stderr, results on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanotron_zagreus.conversion.record import ConversionRecord
    from nanotron_zagreus.conversion.verify import Verification


def print_record(record: ConversionRecord, out: Path) -> None:
    """Say what a conversion made and how it was checked."""
    num_bytes = sum(file.num_bytes for file in record.weights)
    kind = f"{record.dtype} master weights" if record.masters else f"{record.dtype} weights"
    print(f"{out}: {num_bytes:,} bytes of {kind}, from tp={record.tp} pp={record.pp}")
    print_outcome(record.notices, record.verification)
    if record.gguf is not None:
        print(f"  {record.gguf.file.name}: {record.gguf.file.num_bytes:,} bytes", end="")
        if record.gguf.kl_divergence is not None:
            print(
                f"; logits within {record.gguf.max_logit_difference:.1e}, KL {record.gguf.kl_divergence:.1e} nats, "
                f"top-1 {record.gguf.top1_agreement:.0%}",
                end="",
            )
        print()


def print_outcome(notices: Sequence[str], checked: Verification | None) -> None:
    """Say what deserves a remark, and what the verification found."""
    for notice in notices:
        print(f"  note: {notice}")
    if checked is None:
        print("  NOT verified (--no-verify)")
        return
    print(
        f"  verified: {checked.num_elements_equal:,} elements bit for bit; fp32 logits at {checked.num_positions} "
        f"positions within {checked.max_logit_difference:.1e}, top-1 {checked.top1_agreement:.0%}, loss within "
        f"{checked.loss_difference:.1e} (transformers {checked.transformers_version})"
    )


def print_json(value: Any) -> None:
    """Print dataclasses as indented JSON."""
    import dataclasses
    import json

    plain = [dataclasses.asdict(item) for item in value] if isinstance(value, list) else dataclasses.asdict(value)
    print(json.dumps(plain, indent=2, ensure_ascii=False))


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows progress on stderr: (what, done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    quiet_transformers()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield report


def check_choice(flag: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Refuse a value that is none of ``choices``."""
    if value not in choices:
        from nanotron_zagreus.errors import InputError

        raise InputError(f"{flag}: got {value!r}, expected one of {', '.join(filter(None, choices))}")


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and advice off the terminal; errors still show."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
