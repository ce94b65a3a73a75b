"""Let Nanotron import packages at the top of its modules that are missing or broken, and that our model never uses.

The stand-ins are seen by nanotron's modules alone, while they are being imported, and never enter
`sys.modules`: transformers and torch look there to tell what is installed. A name of a stand-in can be
imported, inspected, subclassed and decorate a function; calling it raises a clear error.
It can go when the engines import these packages where they use them.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import types
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

logger = logging.getLogger(__name__)

_ENGINE_PACKAGE = "nanotron"


class _StandIn(type):
    """A class whose every public attribute is another such class, and which cannot be called."""

    def __getattr__(cls, name: str) -> Any:
        if name == "__version__":
            return "0"  # nanotron main compares flash_attn's (nn/attention.py:34) and takes 0 for too old
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name, (_Absent,), {"package": cls.package})


class _Absent(metaclass=_StandIn):
    package = ""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        # As a decorator, `@triton.jit` for one, it only marks what is out of use: calling the function says so.
        if len(arguments) == 1 and isinstance(arguments[0], types.FunctionType) and not options:
            return _StandIn(arguments[0].__name__, (_Absent,), {"package": cls.package})
        raise ModuleNotFoundError(
            f"this code path of Nanotron needs {cls.package} ({cls.__name__}), which was not loaded here: the Zagreus "
            "model does not use it; use Nanotron by itself, with the package installed, for its own models and loaders"
        )


@contextlib.contextmanager
def importable(*packages: str, unused: Collection[str] = ()) -> Iterator[None]:
    """Inside the context nanotron's modules can import ``packages``; those that are installed and work are used.

    A package that is installed and cannot be imported, such as a flash-attn built for another torch, is stood in for
    with a warning.

    Args:
        packages: names of top-level packages.
        unused: packages that are stood in for even where they work, because importing them takes its time.
    """
    absent = set(unused)
    original = builtins.__import__

    def with_stand_ins(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> types.ModuleType | _StandIn:
        top, *rest = name.split(".")
        importer = (globals or {}).get("__name__", "").split(".")[0]
        if level or importer != _ENGINE_PACKAGE or top not in (*packages, *unused):
            return original(name, globals, locals, fromlist, level)
        if top not in absent:
            try:
                return original(name, globals, locals, fromlist, level)
            except Exception as error:  # a broken extension raises what it likes
                if not (isinstance(error, ModuleNotFoundError) and error.name == top):
                    logger.warning("%s is installed but cannot be used here, going on without it (%s)", top, error)
                absent.add(top)
        found = _StandIn(top, (_Absent,), {"package": top})
        # `import a.b as c` asks for a and takes the attribute b itself; `from a.b import c` asks for a.b.
        for part in rest if fromlist else ():
            found = getattr(found, part)
        return found

    with mock.patch.object(builtins, "__import__", with_stand_ins):
        yield
