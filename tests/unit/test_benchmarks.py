"""What the training-step benchmark says of a device and of a side, and what it refuses to print."""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import train_step, train_step_worker
from benchmarks.train_step import SideFailed, Worker, peak_tflops
from benchmarks.train_step_sides import build_transformers, configuration, is_compiled
from benchmarks.train_step_worker import Setup, Timing


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H100 of another form", None),
        ("CPU", None),
    ],
)
def test_each_form_of_a_chip_has_its_own_peak_or_none(device: str, peak: float | None) -> None:
    assert peak_tflops(device) == peak


@pytest.mark.parametrize(
    ("side", "is_eager", "expected"),
    [
        ("ours", False, ("blocks compiled", True)),
        ("ours", True, ("blocks uncompiled", False)),
        ("ours, blocks not compiled", True, ("blocks uncompiled", True)),
    ],
)
def test_a_side_says_whether_its_blocks_are_compiled_as_they_should_be(
    side: str, is_eager: bool, expected: tuple[str, bool], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.model import decoder

    monkeypatch.setattr(decoder, "compiled_layer", lambda: SimpleNamespace(is_eager=is_eager))
    changes = {"zagreus": {"compile_blocks": side == "ours"}}
    assert is_compiled(side, configuration(True, 1, 1, changes)) == expected


@pytest.mark.parametrize(("is_eager", "is_as_meant"), [(False, True), (True, False)])
def test_on_a_gpu_the_loss_should_be_compiled_too(
    is_eager: bool, is_as_meant: bool, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanotron_zagreus.model import decoder, logits_chunk

    config = configuration(True, 1, 1, {"zagreus": {"compile_blocks": True}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(decoder, "compiled_layer", lambda: SimpleNamespace(is_eager=False))
    monkeypatch.setattr(logits_chunk, "compiled_regions", lambda: (SimpleNamespace(is_eager=is_eager),))
    text = f"blocks compiled, loss {'uncompiled' if is_eager else 'compiled'}"
    assert is_compiled("ours", config) == (text, is_as_meant)


@pytest.mark.parametrize("allowed", [False, True])
def test_figures_of_an_uncompiled_side_are_refused_unless_asked_for(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(attention="sdpa", compiled="blocks uncompiled", is_as_meant=False)
    ends = SimpleNamespace(recv=lambda: setup, send=lambda request: None, close=lambda: None)
    process = SimpleNamespace(start=lambda: None, is_alive=lambda: True, join=lambda: None)
    context = SimpleNamespace(Pipe=lambda: (ends, ends), Process=lambda **options: process)
    monkeypatch.setattr("benchmarks.train_step.multiprocessing.get_context", lambda method: context)
    arguments = SimpleNamespace(
        tiny=True, micro_batch_size=1, accumulation=1, attention="auto", allow_uncompiled=allowed
    )
    if allowed:
        assert Worker("ours", arguments).setup is setup  # type: ignore[arg-type]
        return
    with pytest.raises(SideFailed, match=r"ours: blocks uncompiled.*--allow-uncompiled"):
        Worker("ours", arguments)  # type: ignore[arg-type]


STOCK, TRANSFORMERS = "stock nanotron", "transformers, compiled"


@pytest.mark.parametrize(
    ("ends", "measured", "failed"),
    [
        ({}, {"ours": 0, STOCK: 2, TRANSFORMERS: 2}, []),
        ({"ours": 0}, {STOCK: 0, TRANSFORMERS: 0}, ["ours"]),
        ({"ours": 2}, {STOCK: 0, TRANSFORMERS: 0}, ["ours"] * 3),  # beside no side it lives long enough
        ({"ours": 6}, {"ours": 0, STOCK: 1, TRANSFORMERS: 2}, ["ours"]),
        ({STOCK: 0}, {"ours": 0, TRANSFORMERS: 2}, [STOCK]),
        ({STOCK: 2}, {"ours": 0, TRANSFORMERS: 2}, [STOCK]),
    ],
)
def test_a_side_that_dies_takes_no_other_with_it(
    ends: dict[str, int],
    measured: dict[str, int],
    failed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Processes are threads here, which close their pipe at the request of the number in ``ends``."""

    def serve(connection: Connection, side: str, *shape: object) -> None:
        with connection:
            for number in range(100):
                if number == ends.get(side):
                    return
                answer = Timing(seconds=2.0 if side == "ours" else 3.0, peak_bytes=1, loss=1.0)
                connection.send(answer if number else Setup(attention="a", compiled="c", is_as_meant=True))
                if connection.recv() is None:
                    return

    def process(target: Any, args: Any) -> threading.Thread:
        connection, *rest = args
        return threading.Thread(target=target, args=(Connection(os.dup(connection.fileno())), *rest))

    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=process)
    monkeypatch.setattr(train_step, "serve", serve)
    monkeypatch.setattr(train_step.multiprocessing, "get_context", lambda method: context)
    monkeypatch.setattr(sys, "argv", ["train_step", "--rounds", "2", "--steps", "1", "--sides", STOCK, TRANSFORMERS])
    if failed:
        with pytest.raises(SystemExit, match="train_step: failed, the other rows stand"):
            train_step.main()
    else:
        train_step.main()
    printed = capsys.readouterr()
    rows = [line.strip("| ").split(" | ") for line in printed.out.splitlines() if line.startswith("| ")][1:]
    assert [cells[0].partition(":")[0] for cells in rows if len(cells) == 1] == failed
    assert [cells[0] for cells in rows if len(cells) > 1] == list(measured)
    for side, num_ratios in measured.items():
        assert printed.err.count(f"{side}: round") >= 2
        assert printed.err.count(", ours 2\n") >= num_ratios
        (row,) = (cells for cells in rows if cells[0] == side and len(cells) > 1)
        assert ("1.50 (1.50 to 1.50)" in row) == (num_ratios > 0)


def test_compiled_transformers_attend_causally_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[bool, bool]] = []

    def recording(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if node.target is torch.nn.functional.scaled_dot_product_attention:
                found.append((node.kwargs["attn_mask"] is not None, bool(node.kwargs["is_causal"])))
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=recording))
    step, _ = build_transformers(configuration(True, 1, 1, {"model": {"model_config": {"num_hidden_layers": 1}}}))
    step()
    assert found == [(False, True)]


def test_the_benchmark_shows_its_help() -> None:
    command = [sys.executable, "-m", "benchmarks.train_step", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--allow-uncompiled" in done.stdout


def test_a_side_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*shape: object) -> None:
        raise EOFError("a file of the compiler's was cut")

    monkeypatch.setattr(train_step_worker, "build", build)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # the tests' group is not the worker's
    ours, theirs = multiprocessing.Pipe()
    train_step_worker.serve(theirs, "ours", True, 1, 1, "auto")
    assert ours.poll() and ours.recv() == "EOFError: a file of the compiler's was cut"
