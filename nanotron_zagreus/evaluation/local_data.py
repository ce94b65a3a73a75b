"""Point tasks at local copies of their data sets, so that nothing has to be fetched.

A data folder holds one folder per data set, named by its hub id (``alexandrainst/m_mmlu``), in one of
two forms: plain files, ``<data set>/<config>/<split>.jsonl`` (or .json, .parquet, .csv; ``<config>`` may be
left out or ``default`` where the data set has none), or ``<data set>/<config>/<split>/*.parquet``, as the hub
exports data sets that are kept as loading scripts; or a copy of the hub's repository, which `datasets` reads
by the card in its README.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanotron_zagreus.errors import MissingInputError
from nanotron_zagreus.evaluation.data_cards import undelivered

# Packaged readers of `datasets`, by the ending of the file they read.
_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_FILE_READERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
# What `datasets` reads out of a copy of a hub's repository, and the one such file there that holds no rows.
_DATA_ENDINGS = (*_READERS, ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv", ".txt", ".arrow", ".zip", ".tar.gz")
_NOT_DATA = "dataset_infos.json"


@dataclass(frozen=True, kw_only=True)
class DataNeed:
    """What a task reads."""

    dataset: str
    """Hub id of the data set."""
    config: str | None
    splits: tuple[str, ...]

    @property
    def download_command(self) -> str:
        """Return the shell command that copies the data set from the hub into its place under ``DIR``."""
        return self.download_command_into(Path("DIR"))

    def download_command_into(self, data: Path) -> str:
        """Return the shell command that copies the data set from the hub into its place under ``data``."""
        folder = shlex.quote(str(data / self.dataset))
        return f"hf download --repo-type dataset {shlex.quote(self.dataset)} --local-dir {folder}"

    @property
    def export_command(self) -> str:
        """Return the command for a data set kept as a loading script, which `datasets` 4 and later refuses."""
        return f"{self.download_command} --revision refs/convert/parquet"


def data_need(config: dict[str, Any]) -> DataNeed | None:
    """Return what a task file's mapping reads from the hub; None for one that names its own files."""
    dataset = config.get("dataset_path")
    if not dataset or dataset in _FILE_READERS:
        return None
    keys = ("training_split", "validation_split", "test_split", "fewshot_split")
    splits = dict.fromkeys(config[key] for key in keys if config.get(key))
    return DataNeed(dataset=dataset, config=config.get("dataset_name"), splits=tuple(splits))


def local_overrides(config: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """Return the fields of a task file to replace so that it reads local files.

    Args:
        config: the task file's mapping with its ``path``; a task that names data files itself, relative
            to its own folder, gets their full paths.
        data: folder with local copies of the data sets; None for none.

    Raises:
        MissingInputError: a file that the task needs is not there.
    """
    need = data_need(config)
    if need is None:
        return _own_files(config)
    if data is None:
        return {}
    return _copy_of(need, data)


def data_fingerprint(config: dict[str, Any], data: Path | None) -> str | None:
    """Return 16 hexadecimal digits of a hash of the plain files that a task reads.

    A task that names its own files counts with all that its YAML files say, since they are the user's to
    change. None for data from the hub, or copied from there: its versions are the hub's.
    """
    need, total = data_need(config), hashlib.sha256()
    if need is None:
        paths = [Path(file) for file in _flat(_own_files(config).get("dataset_kwargs", {}).get("data_files"))]
        said = {key: value for key, value in config.items() if key != "path"}
        total.update(json.dumps(said, sort_keys=True, default=str).encode())
    else:
        found = _plain_files(need, data) if data else None
        paths = [path for files in (found or {}).values() for path in files]
    if not paths or not all(path.is_file() for path in paths):
        return None
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def form_of_data(need: DataNeed, data: Path) -> Literal["hub copy", "plain files"] | None:
    """Return how ``data`` holds what a task needs, None where it does not; the plain lm-eval reads hub copies alone."""
    if _is_copy(need, data, _DATA_ENDINGS):
        return "hub copy"
    return None if _plain_files(need, data) is None else "plain files"


def missing_data(needs: Iterable[DataNeed], data: Path) -> list[DataNeed]:
    """Return those of ``needs`` for which ``data`` holds nothing usable."""
    return [need for need in needs if form_of_data(need, data) is None]


def may_be_cached(need: DataNeed, hf_home: Path) -> bool:
    """Say whether a Hugging Face cache has a folder for a data set, as a copy or as `datasets` prepared it."""
    copy = hf_home / "hub" / f"datasets--{need.dataset.replace('/', '--')}"
    prepared = hf_home / "datasets"  # names in snake case, with ___ for the slash
    return copy.is_dir() or any(_letters(path.name) == _letters(need.dataset) for path in prepared.glob("*"))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _copy_of(need: DataNeed, data: Path) -> dict[str, Any]:
    files = _plain_files(need, data)
    if files is not None:
        reader = _READERS[next(iter(files.values()))[0].suffix]
        kwargs = {"data_files": {split: list(map(str, paths)) for split, paths in files.items()}}
        return {"dataset_path": reader, "dataset_name": None, "dataset_kwargs": kwargs}
    if _is_copy(need, data, (*_DATA_ENDINGS, ".py")):  # `datasets` explains a loading script better than we can
        return {"dataset_path": str((data / need.dataset).resolve())}
    wanted = " and ".join(f"{split}.jsonl" for split in need.splits)
    lacking = undelivered(data / need.dataset, need.config)
    half = f" (what is there lacks {lacking}, which its README.md declares)" if lacking else ""
    raise MissingInputError(
        f"--data {data}: no copy of {need.dataset} for the splits {', '.join(need.splits)}{half}; put the hub's files "
        f"or {wanted} into {data / need.dataset / (need.config or '')}, or run: "
        f"{need.download_command_into(data)}; `zagreus eval-data` names all that a suite reads"
    )


def _is_copy(need: DataNeed, data: Path, endings: tuple[str, ...]) -> bool:
    """Say whether ``data`` holds a copy of the hub's repository: its card, the files that the card declares, and files
    with one of ``endings``."""
    folder = data / need.dataset
    if not (folder / "README.md").is_file() or undelivered(folder, need.config):
        return False
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.name.endswith(endings) and path.is_file())
    return any(path.name != _NOT_DATA and not any(part.startswith(".") for part in path.parts) for path in files)


def _plain_files(need: DataNeed, data: Path) -> dict[str, list[Path]] | None:
    """Return the files of every split when all stand in the plain layout; None otherwise."""
    for place in [need.config] if need.config else ["default", "."]:
        found = {split: _files_of(data / need.dataset / place, split) for split in need.splits}
        if all(found.values()):
            return found
    return None


def _files_of(folder: Path, split: str) -> list[Path]:
    """Return the files of one split, all with one ending; none if there are none."""
    for ending in _READERS:
        one, several = folder / f"{split}{ending}", sorted((folder / split).glob(f"*{ending}"))
        if one.is_file() or several:
            return [one.resolve()] if one.is_file() else [path.resolve() for path in several]
    return []


def _own_files(config: dict[str, Any]) -> dict[str, Any]:
    kwargs = config.get("dataset_kwargs") or {}
    files = kwargs.get("data_files")
    if not files:
        return {}
    folder = Path(config["path"]).parent
    return {"dataset_kwargs": {**kwargs, "data_files": _absolute(files, folder)}}


def _flat(files: Any) -> list[str]:
    """Return the paths in ``files`` (a path, a list or a mapping of them) as one list."""
    if isinstance(files, dict):
        return [path for value in files.values() for path in _flat(value)]
    if isinstance(files, list):
        return [path for value in files for path in _flat(value)]
    return [str(files)] if files else []


def _absolute(files: Any, folder: Path) -> Any:
    """Return ``files`` (a path, a list or a mapping of them) with relative ones resolved against ``folder``."""
    if isinstance(files, dict):
        return {split: _absolute(value, folder) for split, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, folder) for value in files]
    text = str(files)
    if "://" in text or "*" in text:
        return text
    for path in (folder / text, Path(text)):
        if path.is_file():
            return str(path.resolve())
    raise MissingInputError(f"{folder / text}: a task file names this data file, and it does not exist")
