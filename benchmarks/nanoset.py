"""Upstream's own Nanoset and collator, from a checkout of huggingface/nanotron, as a peer for the mixture.

Its code runs as it is. Two things around it are made to fit: datatrove's dataset class has other names for two
arguments since the release that Nanoset was written for, and numba, which makes the building of its index faster
(nothing that is timed), is stood in for where it is not installed.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUM_SAMPLES = 1 << 18


def batches_of_nanoset(
    checkout: Path, config: Any, *, micro_batch_size: int, eos_token_id: int, positions: bool
) -> Iterator[Any]:
    """Yield micro-batches as upstream's collator makes them, in this process: its loader's workers would only add.

    Args:
        checkout: of huggingface/nanotron.
        config: the run, whose first stage's folders are read.
        micro_batch_size: samples a micro-batch.
        eos_token_id: what ends a document.
        positions: with the positions within documents, found from ``eos_token_id``.
    """
    import torch
    from torch.utils.data import DataLoader

    upstream = _import_nanoset(checkout)
    from nanotron.data.clm_collator import DataCollatorForCLM, DataCollatorForCLMWithPositionIds

    length = config.tokens.sequence_length
    dataset = upstream.Nanoset(
        dataset_folders=[str(folder) for folder in config.data_stages[0].data.dataset.folders],
        sequence_length=length,
        token_size=4,
        train_split_num_samples=NUM_SAMPLES,
        random_seed=config.data_stages[0].data.seed,
        eos_token_id=eos_token_id,
        return_positions=positions,
    )
    world = torch.distributed.group.WORLD
    context = types.SimpleNamespace(pp_pg=world, cp_pg=world, context_parallel_size=1)
    kind = DataCollatorForCLMWithPositionIds if positions else DataCollatorForCLM
    collator = kind(sequence_length=length, input_pp_rank=0, output_pp_rank=0, parallel_context=context)
    yield from DataLoader(dataset, batch_size=micro_batch_size, collate_fn=collator, drop_last=True)


def _import_nanoset(checkout: Path) -> Any:
    """Return upstream's module of Nanoset, in a process of one rank."""
    if "nanotron" not in sys.modules:
        sys.path.insert(0, str(checkout / "src"))
    from nanotron_zagreus.engine.bringup import bring_up
    from nanotron_zagreus.engine.launch import start_process_group

    bring_up("nanotron-main")
    start_process_group()
    with contextlib.suppress(ImportError):
        import numba  # noqa: F401
    if "numba" not in sys.modules:
        sys.modules["numba"] = types.ModuleType("numba")
        sys.modules["numba"].jit = lambda **options: lambda function: function  # type: ignore[attr-defined]
    from nanotron.data import nanoset

    nanoset.DatatroveFolderDataset = _folder_dataset
    return nanoset


def _folder_dataset(*, folder_path: str, filename_pattern: str, eos_token_id: int, **options: Any) -> Any:
    """Return datatrove's dataset for the arguments that Nanoset gives."""
    from datatrove.utils.dataset import DatatroveFolderDataset

    options |= {"filename_pattern": Path(filename_pattern).name, "positions_from_eos_token_id": eos_token_id}
    return DatatroveFolderDataset(folder_path, **options)
