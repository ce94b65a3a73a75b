"""What a training step on a GPU asks of the host and of the GPU's memory, counted on a machine without a GPU.

    python -m benchmarks.idle_gpu                      the sides of benchmarks/train_step.py at the published shape
    python -m benchmarks.idle_gpu --sides ours "stock nanotron" --micro-batch-size 8
    python -m benchmarks.idle_gpu --run run_train.py --config-file tiny.yaml

Run it by a Python that has torch's CUDA build (release 2.13 with CUDA 13: `pip install torch==2.13.0` from PyPI) beside
what the project needs; gcc and nm are used too. A library that stands for the CUDA driver, the runtime, cuBLAS and NCCL
(`idle_gpu.c`, `idle_gpu_simple.c`) is loaded before torch: it gives out memory and runs no kernel. All of the host's
work is real: torch's CUDA allocator, which operations are called with which shapes and devices, and what torch.compile
makes of the layers for an H100, by Triton down to machine code.

Printed per side: the peak of what torch's allocator had given out, the part of it that is the run's state, kernels a
step, how often a step made the host wait for the device, and the processor time that the host takes to launch a step
(median, all threads; what a driver would add for each kernel is not in it). No speed, and no figure of memory that a
kernel takes inside a library (cuDNN does not run here; FlashAttention serves all sides). `--run` gives the device to
any Python program of one rank, to see whether its way on CUDA holds; what that computes means nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_step_sides import OURS, PEERS
from nanotron_zagreus.units import human_bytes

SOURCE = Path(__file__).with_suffix(".c")
SIMPLE = SOURCE.with_stem("idle_gpu_simple")
PREFIXES = re.compile(r"(__)?(cuda[A-Z]|cublas|nccl)\w+")
WRITTEN = re.compile(r"^\w[\w *]*?\b(\w+)\(|^[A-Z]+\((\w+)\)", re.MULTILINE)
STEPS = 10


def build_library(folder: Path) -> Path:
    """Compile the stand-in into ``folder``; what of it needs no thought follows from what torch's libraries want."""
    wanted = set()
    for library in (Path(torch.__file__).parent / "lib").glob("lib*torch_*.so"):
        listing = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
        names = (line.split()[-1].split("@")[0] for line in listing.stdout.splitlines())
        wanted |= {name for name in names if PREFIXES.fullmatch(name)}
    sources = [path.read_text(encoding="utf-8") for path in (SOURCE, SIMPLE)]
    written = {name for text in sources for match in WRITTEN.findall(text) for name in match}
    rest = folder / SIMPLE.name
    rest.write_text(sources[1] + "".join(f"NOTHING({name})\n" for name in sorted(wanted - written)))
    # The runtime's header comes with torch's dependencies, what it includes of the compiler's with Triton.
    packages = Path(torch.__file__).parents[1]
    paths = [*packages.glob("nvidia/cu[0-9]*/include"), packages / "triton/backends/nvidia/include"]
    includes = [f"-I{path}" for path in paths]
    out = folder / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-w", "-O1", f"-Wl,-soname,{out.name}", *includes]
    subprocess.run(["gcc", *options, "-o", out, SOURCE, rest, "-ldl"], check=True)
    return out


def count_step(side: str, micro_batch_size: int, library: str) -> dict[str, Any]:
    """Return a side's figures; this process has the stand-in loaded."""
    from benchmarks.train_step_sides import build, is_compiled
    from nanotron_zagreus.model import attention_choice, compile_workers, linear_cross_entropy

    # Timing kernels that do not run says nothing, nor does trying whether one adds in place (a GPU's does).
    attention_choice.fastest = lambda *_: attention_choice.AttentionChoice("flash", "named by the benchmark")
    linear_cross_entropy._adds_in_place = lambda *_: True
    torch.backends.cuda.enable_cudnn_sdp(False)
    counters = ctypes.CDLL(library)
    kernels, waits = (ctypes.c_long.in_dll(counters, name) for name in ("idle_kernels", "idle_waits"))
    step, _, attention, config = build(side, False, micro_batch_size, 1)
    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    state, before = torch.cuda.memory_allocated(), (kernels.value, waits.value)
    seconds = []
    for _ in range(STEPS):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    compile_workers.end_workers_at_exit()  # the peers' too
    return {
        "attention": attention,
        "compiled": is_compiled(side, config)[0],
        "peak": torch.cuda.max_memory_allocated(),
        "state": state,
        "kernels": (kernels.value - before[0]) / STEPS,
        "waits": (waits.value - before[1]) / STEPS,
        "host": statistics.median(seconds),
    }


def main() -> None:
    # Unfused, AdamW asks the device on each step whether to go on, and gets no answer here.
    others = [side for side in (*OURS, *PEERS) if side != "ours, AdamW not fused"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="*", default=others, choices=others, metavar="SIDE", help="; ".join(others))
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="PROGRAM", help="a Python file or -m module, arguments"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        side, library = arguments.worker
        print(json.dumps(count_step(side, arguments.micro_batch_size, library)))
        return
    if torch.version.cuda is None:
        sys.exit(
            f"idle_gpu: torch {torch.__version__} is a build without CUDA; run this by a Python that has one with it"
        )
    if arguments.run:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, *arguments.run]
            sys.exit(subprocess.run(command, env=_environment(build_library(Path(folder))), check=False).returncode)
    print(f"torch {torch.__version__}, micro-batch {arguments.micro_batch_size} x 4096\n")
    columns = ("side", "attention", "compiled", "peak memory", "of it the run's state", "kernels", "waits", "host ms")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        library = build_library(Path(folder))
        for side in arguments.sides:
            print(_row(side, arguments.micro_batch_size, library), flush=True)


def _environment(library: Path) -> dict[str, str]:
    return os.environ | {"LD_PRELOAD": str(library), "TRITON_LIBCUDA_PATH": str(library.parent), "WORLD_SIZE": "1"}


def _row(side: str, micro_batch_size: int, library: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.idle_gpu", "--worker", side, str(library)]
    done = subprocess.run(
        [*command, "--micro-batch-size", str(micro_batch_size)],
        env=_environment(library),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"| {side} | {done.stderr.strip().splitlines()[-1][:200]} |"
    found = json.loads(done.stdout.splitlines()[-1])
    figures = [f"{human_bytes(found[name])}" for name in ("peak", "state")]
    counts = [f"{found[name]:g}" for name in ("kernels", "waits")]
    host = f"{found['host'] * 1e3:.0f}"
    return f"| {' | '.join([side, found['attention'], found['compiled'], *figures, *counts, host])} |"


if __name__ == "__main__":
    main()
