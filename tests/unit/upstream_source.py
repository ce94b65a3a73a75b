"""Single functions of the installed nanotron, to compare ours with: importing nanotron itself takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any


def upstream_function(file: str, name: str, names: dict[str, Any]) -> Callable[..., Any]:
    """Return one function of the installed nanotron, compiled from its source in a namespace of ``names``."""
    namespace = dict(names)
    exec(_compile(file, name), namespace)
    return namespace[name]


@functools.cache
def _compile(file: str, name: str) -> CodeType:
    """Compile a function without its hints and decorators, which need the rest of its module."""
    spec = importlib.util.find_spec("nanotron")
    assert spec is not None and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / file
    tree = ast.parse(source.read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    function.returns, function.decorator_list = None, []
    for argument in function.args.args:
        argument.annotation = None
    return compile(ast.Module(body=[function], type_ignores=[]), str(source), "exec")
