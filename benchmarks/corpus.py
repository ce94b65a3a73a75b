"""Real text and a Llama-like tokenizer for benchmarks, made once from Debian's packages into a work folder.

Portuguese, Italian, Spanish, French and English documentation, manual pages and this Python's library as code.
It is technical and repetitive, which flatters an encoder that caches words; figures say so.
Needs a Debian or Ubuntu with `apt-get download`; nothing is installed.
"""

from __future__ import annotations

import gzip
import html
import random
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    "manpages-pt-br", "manpages-it", "manpages-fr", "manpages-es", "manpages-dev", "debian-handbook",
    "libreoffice-help-pt-br", "libreoffice-help-it", "libreoffice-help-es", "libreoffice-help-fr",
    "libreoffice-help-en-us", "debian-reference-pt", "debian-reference-it", "debian-reference-es",
    "debian-reference-fr", "debian-reference-en",
)  # fmt: skip
VOCAB_SIZE = 128_256
NUM_SPECIAL_TOKENS = 256
# The pattern of Llama 3's tokenizer.json.
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL | re.IGNORECASE)
_SPACES = re.compile(r"[ \t]*\n\s*\n\s*")


def build_corpus(work: Path) -> list[str]:
    """Return the documents, in a fixed random order; fetch the packages the first time."""
    debs = work / "debs"
    if not debs.is_dir():
        debs.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, check=True)
    root = work / "unpacked"
    if not root.is_dir():
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True)
    documents = [text for text in _documents(root) if len(text) > 200]
    random.Random(0).shuffle(documents)
    return documents


def build_tokenizer(work: Path, documents: list[str]) -> Path:
    """Return a tokenizer.json of Llama 3's kind with 128,256 tokens, trained on ``documents`` the first time."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    path = work / "tokenizer" / "tokenizer.json"
    if path.is_file():
        return path
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - NUM_SPECIAL_TOKENS,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_{n}|>" for n in range(NUM_SPECIAL_TOKENS - 2))]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def _documents(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if path.suffix in (".html", ".xhtml"):
            text = html.unescape(_MARKUP.sub(" ", path.read_text(errors="ignore")))
            yield _SPACES.sub("\n\n", text).strip()
        elif path.suffix == ".gz" and "/man/" in str(path):
            yield gzip.decompress(path.read_bytes()).decode(errors="ignore")
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(errors="ignore")
