"""Collect the demo's text: English, Portuguese and code, for training and held out.

English and Portuguese prose was written for this project and lies in `corpus/`. More English comes from the
documentation strings of the running Python's standard library, code from its source; a file gives one or the
other, never both. Everything is sorted and capped, so one Python version always gives the same corpus.
"""

from __future__ import annotations

import ast
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

PROSE = Path(__file__).parent / "corpus"
LANGUAGES = ("english", "portuguese", "code")
HELD_OUT_EVERY = 9
"""One document in so many is kept for evaluation only."""

_DOCSTRING_CAP_BYTES = 400_000
_CODE_CAP_BYTES = 500_000
_MIN_DOCSTRING_CHARACTERS = 240
_CODE_FILE_BYTES = range(1_500, 16_000)
_SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}


def build_corpus(output: Path) -> dict[str, int]:
    """Write `text/<language>.jsonl` (training) and `held_out/<language>.jsonl` under ``output``.

    Returns:
        The training text's size in bytes per language.
    """
    collected = {
        "english": read_prose(PROSE / "english") + list(collect_docstrings(_DOCSTRING_CAP_BYTES)),
        "portuguese": read_prose(PROSE / "portuguese"),
        "code": list(collect_code(_CODE_CAP_BYTES)),
    }
    sizes = {}
    for language, documents in collected.items():
        training, held_out = split_held_out(documents)
        _write_jsonl(output / "text" / f"{language}.jsonl", language, training)
        _write_jsonl(output / "held_out" / f"{language}.jsonl", language, held_out)
        sizes[language] = sum(len(document.encode()) for document in training)
    return sizes


def read_prose(folder: Path) -> list[str]:
    """Return the documents of the text files in ``folder``: each starts at a line `# Title`."""
    documents = []
    for path in sorted(folder.glob("*.txt")):
        sections = path.read_text(encoding="utf-8").split("\n# ")
        documents += [section.removeprefix("# ").strip() for section in sections]
    return documents


def split_held_out(documents: list[str]) -> tuple[list[str], list[str]]:
    """Return (training, held out): every `HELD_OUT_EVERY`-th document, from the fifth on, is held out."""
    held_out = documents[4::HELD_OUT_EVERY]
    return [document for index, document in enumerate(documents) if index % HELD_OUT_EVERY != 4], held_out


def collect_docstrings(cap_bytes: int) -> Iterator[str]:
    """Yield distinct documentation strings of one half of the standard library, up to ``cap_bytes`` in all."""
    seen: set[str] = set()
    total = 0
    for source in _library_sources(half=0):
        for text in _docstrings_of(source):
            if len(text) < _MIN_DOCSTRING_CHARACTERS or text in seen:
                continue
            total += len(text.encode())
            if total > cap_bytes:
                return
            seen.add(text)
            yield text


def collect_code(cap_bytes: int) -> Iterator[str]:
    """Yield files of moderate size from the other half of the standard library, up to ``cap_bytes`` in all."""
    total = 0
    for source in _library_sources(half=1):
        size = len(source.encode())
        if size not in _CODE_FILE_BYTES:
            continue
        total += size
        if total > cap_bytes:
            return
        yield source


def _library_sources(half: int) -> Iterator[str]:
    """Yield the standard library's files, one ``half`` or the other, in an order that mixes the packages."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        files += [(Path(folder) / name).relative_to(library) for name in names if name.endswith(".py")]
    keyed = sorted((zlib.crc32(file.as_posix().encode()), file) for file in files)
    for key, file in keyed:
        if key % 2 == half:
            try:
                yield (library / file).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a handful of files in old encodings; the corpus is UTF-8 throughout


def _docstrings_of(source: str) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text


def _write_jsonl(path: Path, language: str, documents: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"id": f"{language}/{index}", "text": document}, ensure_ascii=False) + "\n"
        for index, document in enumerate(documents)
    )
    path.write_text("".join(lines), encoding="utf-8")
