"""Which sessions of pytest see CUDA: those of the GPU tests alone."""

from __future__ import annotations

from pathlib import Path


def only_gpu_tests(arguments: list[str]) -> bool:
    """Tell whether pytest's positional arguments name files in tests/gpu and no others."""
    folder = Path(__file__).parent / "gpu"
    paths = [Path(argument.split("::")[0]).resolve() for argument in arguments]
    return bool(paths) and all(path.is_relative_to(folder) for path in paths)
