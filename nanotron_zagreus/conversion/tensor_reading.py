"""Read the weights of a Hugging Face folder tensor by tensor, from one file or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.checkpoints.stored_tensor import open_tensor_file
from nanotron_zagreus.errors import InputError, MissingInputError

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class HFTensors:
    """Where each tensor of a folder lies, its shape and dtype."""

    folder: Path
    files: dict[str, Path]
    """Tensor name -> file that holds it."""
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """Tensor name -> dtype as safetensors names it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in file order."""
        return tuple(self.files)

    @classmethod
    def open(cls, folder: Path) -> HFTensors:
        """Read the headers of the folder's weight files.

        Raises:
            MissingInputError: no safetensors weights, or a file of the index is absent.
            InputError: a damaged file, or an index that does not fit its files.
        """
        paths = _weight_files(folder)
        files: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        for path in paths:
            with open_tensor_file(path) as file:
                for name in file.keys():  # noqa: SIM118 - the library's handle is no mapping
                    if name in files:
                        raise InputError(f"{folder}: tensor {name} is in both {files[name].name} and {path.name}")
                    header = file.get_slice(name)
                    files[name], shapes[name], dtypes[name] = path, tuple(header.get_shape()), header.get_dtype()
        return cls(folder, files, shapes, dtypes)

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, memory-mapped."""
        with open_tensor_file(self.files[name]) as file:
            return file.get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        weight_map = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise InputError(f"{folder / INDEX_FILE}: no weight_map in it; copy the folder again")
        names = sorted(set(weight_map.values()))
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise MissingInputError(f"{folder}: {name}, named by {INDEX_FILE}, is missing; copy the folder again")
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    advice = f"; {pickles[0]} is a pickle, which is never loaded: save it as safetensors first" if pickles else ""
    raise MissingInputError(f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}{advice}")
