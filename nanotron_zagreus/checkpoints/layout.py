"""Names and places inside a checkpoints folder, Nanotron's layout.

    <root>/latest.txt                      the newest whole step
    <root>/<step>/config.yaml, model_config.json, checkpoint_metadata.json, manifest.json
    <root>/<step>/{model, optimizer, lr_scheduler, random}/…
    <root>/.saving-<step>/                 a step being written; never read
    <root>/.replaced-<step>/               a step that is being replaced; `recovery` brings it back
    <root>/STOP, <root>/SAVE               requests to the running trainer
    <root>/outcome.json                    how the last run ended
    <root>/.claim                          locked by the run that writes here
    <root>/slurm_job                       the Slurm job that trains here, or was the last to

Text read from disk is never trusted as a path: a step is digits, and nothing else.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from nanotron_zagreus.errors import InputError, MissingInputError

CONFIG_FILE = "config.yaml"
MODEL_CONFIG_FILE = "model_config.json"
METADATA_FILE = "checkpoint_metadata.json"
MANIFEST_FILE = "manifest.json"
CONVERSION_FILE = "conversion.json"
"""What a conversion or an import says of itself, beside the weights it wrote."""
LATEST_FILE = "latest.txt"
STOP_FILE = "STOP"
SAVE_FILE = "SAVE"
OUTCOME_FILE = "outcome.json"
CLAIM_FILE = ".claim"
JOB_FILE = "slurm_job"
"""Number of the Slurm job that trains here, or was the last to; `slurm/train.sbatch` writes it when it starts."""
METRICS_FILE = "metrics.jsonl"

_STEP = re.compile(r"[0-9]{1,12}")
_NO_SUCH_FLUSH = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
"""What fsync(2) and some network file systems say of a descriptor that cannot be flushed, as a folder's may be."""
_MAX_POINTER_BYTES = 64


def step_folder(root: Path, step: int) -> Path:
    """Return the folder of a saved step."""
    return root / str(step)


def saving_folder(root: Path, step: int) -> Path:
    """Return the folder in which a step is written before it is renamed."""
    return root / f".saving-{step}"


def replaced_folder(root: Path, step: int) -> Path:
    """Return where a step that is saved again stays until the new one has its name."""
    return root / f".replaced-{step}"


def node_token(root: Path, launch: str, node: int) -> Path:
    """Return the file by which the nodes of a launch find out whether they see one folder."""
    return root / f".node-{launch}-{node}"


def is_step_folder(path: Path) -> bool:
    """Tell whether ``path`` is one step's folder rather than a root of many."""
    return path.is_dir() and (path / MODEL_CONFIG_FILE).is_file()


def is_hugging_face_folder(path: Path) -> bool:
    """Tell whether ``path`` holds a model in Hugging Face's layout."""
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def step_number(path: Path) -> int | None:
    """Return the step that a folder's name stands for, or None: whether the folder is there or whole or not."""
    return int(path.name) if _STEP.fullmatch(path.name) else None


def list_steps(root: Path) -> list[int]:
    """Return the steps saved under ``root``, ascending; folders being written and links are left out."""
    if not root.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in os.scandir(root)
        if _STEP.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    )


def read_latest(root: Path) -> int | None:
    """Return the step that latest.txt names, or None without the file.

    Raises:
        InputError: the file is a link, or holds anything but digits.
    """
    path = root / LATEST_FILE
    if path.is_symlink():
        raise InputError(f"{path}: is a symbolic link; latest.txt must be a plain file, remove it")
    if not path.exists():
        return None
    if not path.is_file():
        raise InputError(f"{path}: is no plain file; remove it")
    with path.open("rb") as file:
        raw = file.read(_MAX_POINTER_BYTES + 1)
    text = raw.decode("ascii", errors="replace").strip()
    if len(raw) > _MAX_POINTER_BYTES or not _STEP.fullmatch(text):
        raise InputError(f"{path}: holds {text[:40]!r}, expected the number of a saved step; correct or remove it")
    return int(text)


def write_latest(root: Path, step: int) -> None:
    """Make latest.txt name ``step``, atomically and durably."""
    replace_durably(root / LATEST_FILE, str(step).encode())


def resolve_checkpoint(path: Path) -> Path:
    """Return the step folder that ``path`` means: itself, or the newest one when it is a root.

    Raises:
        MissingInputError: nothing is there, or the step that latest.txt names is not.
    """
    if is_step_folder(path):
        return path
    if not path.exists():
        raise MissingInputError(
            f"checkpoint {str(path)!r} does not exist; give a checkpoints folder or a step's folder"
        )
    step = read_latest(path)
    if step is None:
        steps = list_steps(path)
        hint = f"it holds the steps {steps}, name one of them" if steps else "no step was ever saved there"
        if is_hugging_face_folder(path):
            hint = "it is a Hugging Face folder, of which `zagreus import` makes a checkpoint"
        elif (path / MANIFEST_FILE).is_file() or (path / METADATA_FILE).is_file():
            hint = f"nor {MODEL_CONFIG_FILE}, which a step's folder has; restore its files, or name another step"
        raise MissingInputError(f"checkpoint {str(path)!r}: no {LATEST_FILE} in it; {hint}")
    folder = step_folder(path, step)
    if folder.is_symlink() or not is_step_folder(folder):
        raise MissingInputError(
            f"{path / LATEST_FILE}: names step {step}, but {folder} is no whole checkpoint; "
            f"name one of the steps that are there, whole or not: {list_steps(path)}"
        )
    return folder


def replace_durably(path: Path, content: bytes) -> None:
    """Write ``content`` aside, flush it, and rename it over ``path``: readers see the old or the new file, whole."""
    # With the node's name, for ranks of many nodes write outcome.json.
    aside = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_FLUSH:
            raise
    finally:
        os.close(descriptor)
