"""Time and memory of converting the published shape, beside a plain copy of the same files.

    python -m benchmarks.convert [--work DIR] [--pairs 5] [--layers 32] [--tp 1,5]

Makes a random bf16 checkpoint of 437,760,960 parameters per tensor-parallel size and a tokenizer of 128,256
tokens. Each measurement is a process of its own, verification aside: conversion to Hugging Face, the same from fp32
master weights, import from there, and a copy of the checkpoint's weights, each flushed to disk; they alternate, and the
median of the paired ratios is what to quote. Memory is the peak of the process's own (anonymous) pages above what it
holds when the work starts; pages of mapped files belong to the page cache and can be dropped at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nanotron_zagreus.checkpoints.architecture import Architecture

PUBLISHED = Architecture(
    hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5,
    vocab_size=128256, max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, rope_interleaved=False,
    tie_word_embeddings=True, bos_token_id=128000, eos_token_id=128001, pad_token_id=None, initializer_range=0.02,
)  # fmt: skip
MEASURED = ("copy", "convert", "masters", "import")


def main() -> None:
    """Run the benchmark; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for about 6 GB of files; default: a temporary one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=PUBLISHED.num_hidden_layers)
    parser.add_argument("--tp", default="1,5")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child[0], Path(arguments.child[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="zagreus-convert-", dir=arguments.work) as temporary:
        for tp in map(int, arguments.tp.split(",")):
            root = Path(temporary) / f"tp{tp}"
            num_parameters, largest = make_inputs(root, replace(PUBLISHED, num_hidden_layers=arguments.layers), tp)
            print(json.dumps(compare(root, tp, num_parameters, largest, arguments.pairs), indent=1), flush=True)
            shutil.rmtree(root)


def make_inputs(root: Path, arch: Architecture, tp: int) -> tuple[int, int]:
    """Write checkpoint, tokenizer and converted folder; return parameters and the largest tensor's bytes."""
    import torch

    from nanotron_zagreus.checkpoints.model_shards import open_model_shards
    from nanotron_zagreus.conversion.to_hf import convert_checkpoint
    from tests.unit.conversion_fixtures import write_checkpoint, write_tokenizer_folder

    write_checkpoint(root / "checkpoint", arch, tp=tp, dtype=torch.bfloat16)
    write_masters(root / "checkpoint", tp)
    path = write_tokenizer_folder(root / "tokenizer") / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    for index in range(len(vocabulary), arch.vocab_size):
        vocabulary[f"word{index}"] = index
    path.write_text(json.dumps(data))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "word128000", "eos_token": "word128001"}
    (root / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    convert_checkpoint(root / "checkpoint", root / "hf", root / "tokenizer", verify=False)
    shapes = [tensor.shape for tensor in open_model_shards(root / "checkpoint").tensors.values()]
    sizes = [shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes]
    return sum(sizes), 2 * max(sizes)


def write_masters(checkpoint: Path, tp: int) -> None:
    """Write fp32 master weights beside the weights, one file per tensor-parallel rank."""
    from safetensors.torch import load_file

    from nanotron_zagreus.checkpoints.model_shards import open_model_shards
    from nanotron_zagreus.checkpoints.optimizer_shards import FOLDER, Placement, write_optimizer_shard

    tensors = open_model_shards(checkpoint).tensors
    (checkpoint / FOLDER).mkdir()
    for rank in range(tp):
        states, placements = {}, {}
        for name, tensor in tensors.items():
            shard = tensor.shards[min(rank, len(tensor.shards) - 1)]
            master = load_file(shard.path)["data"].float().flatten()
            states[name] = {"master": master}
            placements[name] = Placement(
                whole_shape=tensor.shape, local_shape=shard.shape, pairs=shard.pairs, start=0, stop=master.numel()
            )
        path = checkpoint / FOLDER / f"optimizer_tp-{rank}.safetensors"
        write_optimizer_shard(path, states, placements, dict.fromkeys(states, 1))


def compare(root: Path, tp: int, num_parameters: int, largest: int, pairs: int) -> dict[str, object]:
    """Return medians and paired ratios of the kinds of work, which alternate."""
    found: dict[str, list[dict[str, float]]] = {what: [] for what in MEASURED}
    for _ in range(pairs):
        for what in MEASURED:
            command = [sys.executable, "-m", "benchmarks.convert", "--child", what, str(root)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[what].append(json.loads(done.stdout.splitlines()[-1]))
    result: dict[str, object] = {"tp": tp, "parameters": num_parameters, "largest_tensor_mb": round(largest / 1e6, 1)}
    for what, runs in found.items():
        result[f"{what}_seconds"] = round(statistics.median(run["seconds"] for run in runs), 2)
        result[f"{what}_processor_seconds"] = round(statistics.median(run["processor_seconds"] for run in runs), 2)
        if what == "copy":
            continue
        ratios = [run["seconds"] / copy["seconds"] for run, copy in zip(runs, found["copy"], strict=True)]
        result[f"{what}_over_copy_median"] = round(statistics.median(ratios), 2)
        result[f"{what}_over_copy_all"] = [round(ratio, 2) for ratio in ratios]
        result[f"{what}_peak_memory_mb"] = round(max(run["peak_bytes"] for run in runs) / 1e6, 1)
        written = 2 * largest if what == "masters" else largest
        result[f"{what}_peak_over_largest_tensor"] = round(max(run["peak_bytes"] for run in runs) / written, 2)
    return result


def measure(what: str, root: Path) -> dict[str, float]:
    """Do one piece of work in this process; return its seconds and its peak of anonymous memory."""
    work = {"copy": copy_files, "convert": convert, "masters": convert_masters, "import": import_}[what](root)
    out = root / "out"
    watch = PeakMemory()
    started, processor = time.perf_counter(), time.process_time()
    with watch:
        work(out)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    shutil.rmtree(out)
    return {"seconds": seconds, "processor_seconds": processor, "peak_bytes": watch.peak_bytes}


def copy_files(root: Path) -> Callable[[Path], object]:
    """Return what copies the checkpoint's weights, each file flushed as the converter flushes its own."""

    def copy_flushed(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())

    return lambda out: shutil.copytree(root / "checkpoint/model", out, copy_function=copy_flushed)


def convert_masters(root: Path) -> Callable[[Path], object]:
    """Return the conversion of the fp32 master weights, its libraries loaded."""
    return convert(root, masters=True)


def convert(root: Path, *, masters: bool = False) -> Callable[[Path], object]:
    """Return the conversion to Hugging Face, its libraries loaded."""
    import safetensors.torch  # noqa: F401
    import tokenizers  # noqa: F401

    from nanotron_zagreus.conversion.to_hf import convert_checkpoint

    return lambda out: convert_checkpoint(root / "checkpoint", out, root / "tokenizer", masters=masters, verify=False)


def import_(root: Path) -> Callable[[Path], object]:
    """Return the import from Hugging Face, its libraries loaded."""
    import safetensors.torch  # noqa: F401

    from nanotron_zagreus.conversion.from_hf import import_folder

    tp = int(root.name.removeprefix("tp"))
    return lambda out: import_folder(root / "hf", out, tp=tp, verify=False)


class PeakMemory:
    """The most anonymous memory of this process within a block, above what it had before, sampled every 2 ms."""

    def __init__(self) -> None:
        """Note what the process holds now."""
        self._before, self.peak_bytes = anonymous_bytes(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes() - self._before)


def anonymous_bytes() -> int:
    """Return the process's resident anonymous memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon line; Linux 4.5 or later is needed")


if __name__ == "__main__":
    main()
