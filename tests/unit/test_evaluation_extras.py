"""The optional packages of the stage: each is one that it imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def extras() -> dict[str, list[str]]:
    """Return the extras that setup.py declares, as import names."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (value,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "extras_require")
    packages = ast.literal_eval(value)
    return {
        extra: [re.split(r"[\[><=]", name)[0].replace("-", "_") for name in names] for extra, names in packages.items()
    }


@pytest.mark.parametrize("extra", ["eval", "plots"])
def test_an_extra_installs_only_what_is_imported(extra: str) -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "nanotron_zagreus").rglob("*.py"))
    for package in extras()[extra]:
        assert re.search(rf"^ *(?:from|import) {package}\b", sources, re.MULTILINE), package
