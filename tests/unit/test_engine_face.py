"""The contract between the engines and the rest: both keep it, with or without being installed."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from nanotron_zagreus.checkpoints.model_shards_writing import ShardRank, shard_path
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import Config, load_config, load_config_text
from nanotron_zagreus.config.parsing import to_plain
from nanotron_zagreus.engine.detection import ENGINES, find_engine
from nanotron_zagreus.engine.face import Engine, Progress
from nanotron_zagreus.engine.nanotron_04 import Nanotron04
from nanotron_zagreus.engine.nanotron_main import NanotronMain
from nanotron_zagreus.errors import InputError

PACKAGE = Path(__file__).parents[2] / "nanotron_zagreus"
OLD, MAIN = Nanotron04(Path("nowhere")), NanotronMain(Path("nowhere"))


def install(monkeypatch: pytest.MonkeyPatch, package: Path, *paths: str) -> None:
    """Let `find_engine` find a package that consists of ``paths``."""
    for path in ("__init__.py", *paths):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text('__version__ = "0.4"\n')
    find_as_nanotron(monkeypatch, SimpleNamespace(submodule_search_locations=[str(package)]))


def find_as_nanotron(monkeypatch: pytest.MonkeyPatch, spec: Any) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "nanotron" else original(name))


def config_with(**parallelism: Any) -> Config:
    """Return the tiny shipped configuration with another parallelism section."""
    plain = to_plain(load_config("smollm2/zagreus_tiny.yaml"))
    plain["parallelism"] |= parallelism
    return load_config_text(yaml.safe_dump(plain), "test")


@pytest.mark.parametrize("engine_class", ENGINES)
def test_an_engine_answers_everything_the_face_asks_with_the_same_arguments(engine_class: type[Engine]) -> None:
    assert not engine_class.__abstractmethods__
    for name in Engine.__abstractmethods__:
        wanted, found = (inspect.signature(getattr(cls, name)) for cls in (Engine, engine_class))
        assert found == wanted, name


@pytest.mark.parametrize("engine_class", ENGINES)
def test_an_engine_is_told_by_its_features_and_not_by_its_version(
    engine_class: type[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, *engine_class.features)
    assert type(find_engine()) is engine_class
    assert find_engine(engine_class.name).root == tmp_path
    other = next(cls for cls in ENGINES if cls is not engine_class)
    with pytest.raises(InputError, match=rf"zagreus\.engine: got {other.name}, .* is {engine_class.name}"):
        find_engine(other.name)


@pytest.mark.parametrize(
    "paths", [(), ("logging.py", "data/dataloader.py"), Nanotron04.features + NanotronMain.features]
)
def test_an_unknown_engine_is_refused_with_what_was_looked_for_and_found(
    paths: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, *paths)
    with pytest.raises(InputError) as caught:
        find_engine()
    for word in (str(tmp_path), "Looked for", "pip install"):
        assert word in str(caught.value)
    for engine in ENGINES:
        found = ", ".join(path for path in engine.features if path in paths) or "none"
        assert f"{engine.name} has {', '.join(engine.features)} (found: {found})" in str(caught.value)


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find_as_nanotron(monkeypatch, None)
    with pytest.raises(InputError, match="pip install"):
        find_engine()


def test_check_says_which_engine_would_train_or_why_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", "--config-file", "smollm2/zagreus_tiny.yaml"]
    install(monkeypatch, tmp_path / "main", *NanotronMain.features)
    assert run(command) == 0
    assert f"nanotron-main in {tmp_path / 'main'}" in capsys.readouterr().out
    install(monkeypatch, tmp_path / "unknown")
    assert run(command) == 0
    assert "none here: engine: " in capsys.readouterr().out


def test_nothing_outside_the_engines_files_asks_which_engine_it_is() -> None:
    """Docstrings and messages may name an engine; a string that is exactly an engine's name is a question."""
    names = {engine.name for engine in ENGINES}
    allowed = {"engine/nanotron_04.py", "engine/nanotron_main.py", "config/sections.py"}
    asking = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                asking.add(str(path.relative_to(PACKAGE)))
    assert asking == allowed


def test_both_engines_are_told_the_same_run() -> None:
    config = config_with(tp=2, dp=2, tp_mode="REDUCE_SCATTER", tp_recompute_allgather=False)
    old, main = OLD.translate(config), MAIN.translate(config)
    for section in ("general", "model", "tokenizer", "checkpoints", "logging", "tokens"):
        assert old[section] == main[section]
    assert main["parallelism"] == old["parallelism"] | {
        "tp_recompute_allgather": False,
        "recompute_layer": False,
        "context_parallel_size": 1,
    }
    factory = main["optimizer"].pop("optimizer_factory")
    assert factory.pop("name") == "adamW"
    assert main["optimizer"] | factory == old["optimizer"]
    stages = [(stage["name"], stage["start_training_step"]) for stage in main["data_stages"]]
    assert stages == [(stage.name, stage.start_training_step) for stage in config.data_stages]
    assert len(stages) > 1
    assert main.keys() - old.keys() == {"data_stages"}
    assert old.keys() - main.keys() == {"data"}


def test_only_main_gathers_again_in_the_backward_pass() -> None:
    section = SimpleNamespace(tp_recompute_allgather=False)
    assert OLD.column_linear_options(section) == {}
    assert MAIN.column_linear_options(section) == {"tp_recompute_allgather": False}
    assert OLD.column_linear_options(None) == MAIN.column_linear_options(None) == {}


def test_main_refuses_a_setting_of_cuda_that_its_parallel_linears_would_assert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    for engine in (OLD, MAIN):
        engine.check(config_with(tp=1))
    OLD.check(config_with(tp=2))
    with pytest.raises(InputError, match=r"CUDA_DEVICE_MAX_CONNECTIONS: got 8.*tp"):
        MAIN.check(config_with(tp=2))
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS")
    MAIN.check(config_with(tp=2))


@pytest.mark.parametrize("name", ["expert_parallel_size", "context_parallel_size"])
def test_other_kinds_of_parallelism_are_refused_on_every_engine(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: got 2, only 1"):
        config_with(**{name: 2})


def progress_after_a_stage_and_a_half() -> Progress:
    """Return a run's progress: stage one of two sources (one folder twice), stage two begun, one to come."""
    plain = to_plain(load_config("smollm2/zagreus_tiny.yaml"))
    stage = plain["data_stages"][0]
    names = (("one", 1), ("two", 7), ("three", 9))
    plain["data_stages"] = [stage | {"name": name, "start_training_step": start} for name, start in names]
    config = load_config_text(yaml.safe_dump(plain), "test")
    stages = [
        {"name": "one", "samples": 48, "sources": [0, 1, 2], "samples_per_source": [20, 18, 10]},
        {"name": "two", "samples": 8, "sources": [1], "samples_per_source": [8]},
    ]
    sources = {"0": {"folder": "a"}, "1": {"folder": "b"}, "2": {"folder": "a"}}
    return Progress(config=config, step=7, consumed_samples=56, stages=stages, sources=sources)


def test_the_metadata_of_a_checkpoint_is_each_engines_own() -> None:
    progress = progress_after_a_stage_and_a_half()
    dp, length = progress.config.parallelism.dp, progress.config.tokens.sequence_length
    assert OLD.checkpoint_metadata(progress) == {
        "version": "1.2",
        "tp": 1,
        "dp": dp,
        "metas": {"last_train_step": 7, "consumed_train_samples": 56},
    }
    written = MAIN.checkpoint_metadata(progress)
    metas = written["metas"]
    assert (written["version"], written["tp"], written["dp"], written["cp"]) == ("1.5", 1, dp, 1)
    assert (metas["last_train_step"], metas["last_stage_idx"], metas["consumed_train_samples"]) == (7, 1, 56)
    assert [stage["name"] for stage in metas["data_stages"]] == ["one", "two", "three"]
    assert [stage["start_training_step"] for stage in metas["data_stages"]] == [1, 7, 9]
    assert [stage["consumed_train_samples"] for stage in metas["data_stages"]] == [48, 8, 0]
    assert metas["data_stages"][0]["consumed_tokens_per_dataset_folder"] == {"a": 30 * length, "b": 18 * length}
    # What upstream asserts when it loads the file (serialize/metadata.py:60-71).
    assert metas["consumed_train_samples"] == sum(s["consumed_train_samples"] for s in metas["data_stages"])
    tokens = [sum(s["consumed_tokens_per_dataset_folder"].values()) for s in metas["data_stages"]]
    assert metas["consumed_tokens_total"] == sum(tokens) == 56 * length


def test_the_installed_engine_reads_its_metadata_back(engine: Engine, tmp_path: Path) -> None:
    from nanotron.constants import CHECKPOINT_VERSION
    from nanotron.serialize.metadata import load_meta

    written = engine.checkpoint_metadata(progress_after_a_stage_and_a_half())
    (tmp_path / "checkpoint_metadata.json").write_text(json.dumps(written))
    read = load_meta(parallel_context=None, root_folder=tmp_path)
    assert read.version == CHECKPOINT_VERSION
    assert "7" in str(read.metas)


def test_the_installed_engine_names_weight_files_as_we_do(engine: Engine) -> None:
    from nanotron.serialize.utils import ObjectType, get_path

    name = "model.decoder.3.pp_block.attn.qkv_proj.weight"
    arguments = [name, ObjectType.MODEL]
    parameters = inspect.signature(get_path).parameters
    ranks = ((1, 2), (3, 4))
    extra = {"is_expert_sharded": False} if "is_expert_sharded" in parameters else {}
    with_experts = ((0, 1), *ranks) if extra else ranks
    assert Path("model", *get_path(*arguments, with_experts, **extra)) == shard_path(name, ShardRank(1, 2, 3, 4))
    assert Path("model", *get_path(*arguments, None, **extra)) == shard_path(name, None)


IMPORTS = """
import sys
from nanotron_zagreus.engine.repairs import import_trainer
import_trainer("absent_gpu", "json")
import nanotron.trainer as trainer
import json
assert not [name for name in sys.modules if name.startswith("absent_gpu")]
assert trainer.json is json and trainer.version == "0"
try:
    import absent_gpu
    raise SystemExit("the stand-in is seen outside nanotron")
except ModuleNotFoundError:
    pass
for use in (trainer.kernel, trainer.function, trainer.Derived, trainer.language.exp):
    try:
        use(1)
        raise SystemExit(f"{use} can be called")
    except ModuleNotFoundError as error:
        assert "absent_gpu" in str(error), error
"""
TRAINER = """
import json
import absent_gpu.language as language
from absent_gpu import jit, __version__ as version
from absent_gpu.deep.module import function, Base
class Derived(Base):
    pass
@jit
def kernel(size: language.constexpr):
    return size
"""


def test_stand_ins_are_seen_by_the_engine_alone_and_explain_themselves_when_used(tmp_path: Path) -> None:
    done = run_with_engine(tmp_path, TRAINER, IMPORTS)
    assert done.returncode == 0, done.stderr


def test_a_package_that_the_engine_does_need_is_named(tmp_path: Path) -> None:
    done = run_with_engine(tmp_path, "import absent_necessity.part", IMPORTS)
    assert "InputError: engine: nanotron needs absent_necessity" in done.stderr
    assert "pip install absent_necessity" in done.stderr


def run_with_engine(folder: Path, trainer: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program beside a package `nanotron` that consists of one module."""
    (folder / "nanotron").mkdir()
    (folder / "nanotron" / "__init__.py").touch()
    (folder / "nanotron" / "trainer.py").write_text(trainer)
    prefix = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    command = [sys.executable, "-c", prefix + program]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
