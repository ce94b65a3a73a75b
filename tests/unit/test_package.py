"""What a user's installation rests on: cheap imports, complete wheels, help everywhere, one direction of imports."""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TypeGuard

import click
import pytest
import typer
import yaml

from nanotron_zagreus.cli.app import app
from nanotron_zagreus.config import load_config

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nanotron_zagreus"
SHIPPED = ("nanotron_zagreus", "configs", "slurm", "examples/llama")

# Lower rooms never import higher ones. Files at the package's root not named here belong to level 0.
LEVELS = {
    "config": 0, "checkpoints": 0, "errors": 0, "resources": 0,
    "engine": 1,
    "data": 2, "model": 2,
    "conversion": 3, "generation": 3,
    "training": 4, "evaluation": 4, "slurm": 4,
    "cli": 5,
}  # fmt: skip
# Which rooms may import a heavy library at all.
ALLOWED_IN = {
    "nanotron": {"engine", "model", "training"},
    "datatrove": {"data"},
    "lm_eval": {"evaluation"},
}
HEAVY = ("torch", "nanotron", "datatrove", "transformers", "tokenizers", "lm_eval", "numpy", "pandas", "datasets")
EXTRAS = ("lm_eval", "gigatoken", "matplotlib", "pandas", "gguf", "tensorboard", "wandb", "flash_attn")


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all commands below ``command``, groups included."""
    if not hasattr(command, "commands"):
        return [path]
    return [path, *(found for name, sub in command.commands.items() for found in _commands(sub, (*path, name)))]


def _is_leaf(path: tuple[str, ...]) -> bool:
    return not any(other != path and other[: len(path)] == path for other in COMMANDS)


def _find(path: tuple[str, ...]) -> click.Command:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    return command


COMMANDS = _commands(typer.main.get_command(app))


def test_import_and_help_pull_in_nothing_heavy() -> None:
    program = (
        "import sys, time; start = time.process_time(); import nanotron_zagreus; alone = time.process_time() - start\n"
        "from nanotron_zagreus.cli.app import run; assert run(['--help']) == 0\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, f'imported: {heavy}'\n"
        "assert alone < 0.5, f'import nanotron_zagreus took {alone:.2f} s'\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Usage: zagreus" in result.stdout


def test_every_help_works_with_only_the_core_installed() -> None:
    """One process in which the extras cannot be imported shows every command's help."""
    program = (
        "import sys\n"
        f"for name in {EXTRAS!r}: sys.modules[name] = None\n"
        "from nanotron_zagreus.cli.app import run\n"
        f"failed = [path for path in {COMMANDS!r} if run([*path, '--help']) != 0]\n"
        "assert not failed, f'no help from: {failed}'\n"
        f"heavy = [name for name in {HEAVY!r} if sys.modules.get(name)]\n"
        "assert not heavy, f'help imported: {heavy}'\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for path in COMMANDS:
        assert f"Usage: zagreus {' '.join(path)}".strip() in result.stdout


@pytest.mark.parametrize("path", [path for path in COMMANDS if _is_leaf(path)], ids=" ".join)
def test_every_help_shows_an_example_that_the_command_line_accepts(path: tuple[str, ...]) -> None:
    """The examples' options and arguments exist; whether their files do is the user's affair."""
    examples = [shlex.split(text) for text in re.findall(r"`(zagreus [^`]+)`", _find(path).help or "")]
    own = [words for words in examples if tuple(words[1 : len(path) + 1]) == path]
    assert own, f"zagreus {' '.join(path)} --help holds no example like `zagreus {' '.join(path)} …`"
    for words in own:
        _find(path).make_context(path[-1], words[len(path) + 1 :])


@pytest.mark.parametrize("page", ["README.md", "configs/smollm2/README.md", "docs/architecture.md"])
def test_the_command_line_accepts_the_commands_a_page_shows(page: str) -> None:
    """Commands stand alone on an indented line, with shell comments, redirections and continued lines."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    shown = [shlex.split(line, comments=True) for line in re.findall(r"^    +(zagreus .*)$", text, re.MULTILINE)]
    assert shown or page != "README.md"
    for words in shown:
        words = words[: words.index(">")] if ">" in words else words
        path = max((path for path in COMMANDS if tuple(words[1 : len(path) + 1]) == path), key=len)
        assert _is_leaf(path), f"{page}: {shlex.join(words)}"
        _find(path).make_context(path[-1], words[len(path) + 1 :])


def test_imports_run_downwards_only() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = _room(path.relative_to(PACKAGE))
        for module in _imported_modules(path):
            top, _, rest = module.partition(".")
            if top == "nanotron_zagreus" and rest:
                target = rest.split(".")[0]
                if LEVELS.get(target, 0) > LEVELS.get(room, 0):
                    wrong.append(f"{path.relative_to(ROOT)}: {room} imports {target}")
                elif target != room and LEVELS.get(target, 0) == LEVELS.get(room, 0) > 0:
                    wrong.append(f"{path.relative_to(ROOT)}: {room} imports its neighbour {target}")
            elif room not in ALLOWED_IN.get(top, {room}):
                wrong.append(f"{path.relative_to(ROOT)}: {room} imports {top}")
    assert not wrong, "\n".join(wrong)


def test_every_library_that_is_imported_is_declared() -> None:
    imported = {name.partition(".")[0] for path in PACKAGE.rglob("*.py") for name in _imported_modules(path)}
    libraries = imported - set(sys.stdlib_module_names) - {"nanotron_zagreus"}
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in _requirements()}
    owners = packages_distributions()
    installed = {name: {owner.lower().replace("_", "-") for owner in owners.get(name, ())} for name in libraries}
    assert {
        name: found for name, found in installed.items() if not (found or {name.replace("_", "-")}) & declared
    } == {}


def test_initializers_hold_no_logic() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign)
    wrong = []
    for path in PACKAGE.rglob("__init__.py"):
        statements = ast.parse(path.read_text(encoding="utf-8")).body
        if not all(isinstance(s, allowed) or _is_docstring(s) for s in statements):
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong


# Beside the training configurations lie recipes of data, which `zagreus tokenize` reads.
@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("zagreus_*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    config = load_config(path)
    assert config.tokens.train_steps > 0


def test_every_other_shipped_yaml_parses() -> None:
    loader = type("AnyTag", (yaml.SafeLoader,), {})
    # lm-eval's task files name Python functions by a tag.
    loader.add_multi_constructor("!", lambda loader, suffix, node: f"{suffix} {getattr(node, 'value', '')}")
    folders = [PACKAGE, ROOT / "configs", ROOT / "slurm", ROOT / "examples", ROOT / ".github"]
    paths = [path for folder in folders for path in folder.rglob("*.y*ml")]
    assert paths
    for path in paths:
        assert yaml.load(path.read_text(encoding="utf-8"), loader) is not None, path


def test_no_data_file_is_shipped_twice() -> None:
    copies: dict[str, list[str]] = defaultdict(list)
    for folder in SHIPPED:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and path.stat().st_size:
                copies[hashlib.sha256(path.read_bytes()).hexdigest()].append(str(path.relative_to(ROOT)))
    assert not [names for names in copies.values() if len(names) > 1]


def test_a_wheel_carries_every_shipped_file_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    # Built from a copy: setuptools would take up what an earlier build left in build/.
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*SHIPPED, "examples/__init__.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    expected = {_place_in_wheel(path.relative_to(source)) for folder in SHIPPED for path in (source / folder).rglob("*")
                if path.is_file()}  # fmt: skip
    assert len(packed) == len(set(packed))
    assert not expected - set(packed), "the wheel lacks files: extend package_data in setup.py"


def _place_in_wheel(path: Path) -> str:
    return f"nanotron_zagreus/_data/{path}" if path.parts[0] in ("configs", "slurm") else str(path)


def _room(path: Path) -> str:
    """Return the room of a file of the package: its folder, or its own name at the root."""
    return path.parts[0] if len(path.parts) > 1 else path.stem


def _requirements() -> list[str]:
    """Return what setup.py asks for, the tools for development excepted."""
    (call,) = (node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if _calls_setup(node))
    given = {word.arg: word.value for word in call.keywords}
    extras = ast.literal_eval(given["extras_require"])
    optional = [line for name in set(extras) - {"dev"} for line in extras[name]]
    return ast.literal_eval(given["install_requires"]) + optional


def _calls_setup(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup"


def _imported_modules(path: Path) -> list[str]:
    """Return the absolute names of all modules that the file imports, at its top or inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; write the absolute name"
            module = str(node.module)
            # `from nanotron_zagreus import slurm` names the room in the alias.
            found += [f"{module}.{alias.name}" for alias in node.names] if module == "nanotron_zagreus" else [module]
    return found


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
