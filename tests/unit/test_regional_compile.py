"""A compiled region is compiled once for all its copies, and runs uncompiled where it cannot be compiled."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nanotron_zagreus.model.documents import documents_of
from nanotron_zagreus.model.regional_compile import RegionalCompile
from nanotron_zagreus.model.rope import rotary_tables
from tests.unit.engine_model import build_model

BATCH, SEQUENCE, HEAD_DIM = 2, 48, 16


def layers(attention: str, count: int = 3) -> list[Any]:
    """Return decoder layers of one shape with different weights; torch 2.11 compiles again for another model's."""
    config = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": count,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 32,
        "tie_word_embeddings": False,
    }
    model = build_model(config, attention=attention, compile_blocks=True)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return [block.pp_block for block in model.model.decoder]


def positions(num_documents: int) -> Any:
    """Return positions of rows that hold so many documents each."""
    from nanotron_zagreus.model.decoder import Positions

    ids = torch.arange(SEQUENCE).remainder(-(-SEQUENCE // num_documents)).expand(BATCH, -1)
    cos, sin = rotary_tables(SEQUENCE, HEAD_DIM, 10000.0, torch.device("cpu"))
    return Positions(cos[ids], sin[ids], documents_of(ids))


@pytest.mark.parametrize("attention", ["sdpa", "per_document"])
def test_one_compilation_serves_all_layers_steps_and_documents(engine: Any, attention: str) -> None:
    from nanotron_zagreus.model.decoder import DecoderLayer

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    run = RegionalCompile(DecoderLayer._layer, backend=counter)
    after_first_layer, decoder = 0, layers(attention)
    for step, num_documents in enumerate((1, 2, 5)):
        for index, layer in enumerate(decoder):
            hidden = torch.randn(BATCH, SEQUENCE, 64, requires_grad=True)
            inputs = (hidden, *layer.parameters())
            out = run(layer, hidden, positions(num_documents))
            expected = layer._layer(hidden, positions(num_documents))
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
            grad = torch.randn_like(out)
            gradients = torch.autograd.grad(out, inputs, grad)
            for ours, reference in zip(gradients, torch.autograd.grad(expected, inputs, grad), strict=True):
                torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
            if step == index == 0:
                after_first_layer = counter.frame_count
    assert not run.is_eager
    # A kernel that is called uncompiled cuts the attention and the layer around it.
    assert counter.frame_count == after_first_layer == (1 if attention == "sdpa" else 4)


@pytest.mark.parametrize("attention", ["sdpa", "per_document"])
def test_validation_compiles_once_more_and_training_goes_on_with_what_it_had(engine: Any, attention: str) -> None:
    from nanotron_zagreus.model.decoder import DecoderLayer

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    run = RegionalCompile(DecoderLayer._layer, backend=counter)
    count, decoder = [], layers(attention, count=2)
    for _ in range(3):
        for layer in decoder:
            hidden = torch.randn(BATCH, SEQUENCE, 64, requires_grad=True)
            run(layer, hidden, positions(2)).sum().backward()
        count.append(counter.frame_count)
        with torch.no_grad():
            for layer in decoder:
                run(layer, torch.randn(BATCH, SEQUENCE, 64), positions(3))
        count.append(counter.frame_count)
    # Graphs with and without a backward pass.
    assert count == [count[0], *[2 * count[0]] * 5]


def test_a_layer_that_is_wrapped_for_data_parallelism_is_still_one_graph(engine: Any) -> None:
    from torch.nn.parallel import DistributedDataParallel

    from nanotron_zagreus.model.decoder import DecoderLayer

    class Layer(torch.nn.Module):
        def __init__(self, layer: Any, run: RegionalCompile) -> None:
            super().__init__()
            self.layer, self.run = layer, run

        def forward(self, hidden: torch.Tensor) -> Any:
            return self.run(self.layer, hidden, positions(1))

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    layer = Layer(layers("sdpa", 1)[0], RegionalCompile(DecoderLayer._layer, backend=counter))
    wrapped = DistributedDataParallel(layer)
    wrapped(torch.randn(BATCH, SEQUENCE, 64, requires_grad=True)).sum().backward()
    assert counter.frame_count == 1


IN_THE_ENGINE_S_CONTEXT = """
from nanotron_zagreus.engine.bringup import bring_up
bring_up()
import torch
from nanotron.models.base import init_on_device_and_dtype
from nanotron_zagreus.model.regional_compile import RegionalCompile
graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph
with init_on_device_and_dtype(device=torch.device("cpu"), dtype=torch.float32):
    run = RegionalCompile(lambda x: x + torch.ones(3), backend=backend)
run(torch.zeros(3))
print(len(graphs), "ones" in graphs[0].code)
"""


def test_a_region_made_while_the_engine_builds_a_model_knows_torch_s_functions() -> None:
    done = subprocess.run([sys.executable, "-c", IN_THE_ENGINE_S_CONTEXT], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "True"], done.stderr


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    calls = []

    def broken_backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        raise RuntimeError("no C++ compiler")

    run = RegionalCompile(lambda x: x * 2, backend=broken_backend)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(run(torch.ones(3)), torch.full((3,), 2.0))
        assert torch.equal(run(torch.ones(3)), torch.full((3,), 2.0))
    assert run.is_eager
    assert len(calls) == 1
    (record,) = caplog.records
    assert "compile_blocks" in record.message and "no C++ compiler" in record.message


def test_an_error_of_the_region_itself_is_not_taken_for_the_compiler_s() -> None:
    torch._dynamo.reset()
    run = RegionalCompile(lambda x: x @ x, backend="eager")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(torch.ones(2, 3))


def test_a_failure_after_the_first_success_is_not_hidden() -> None:
    torch._dynamo.reset()

    def failing_later(graph: Any, inputs: Any) -> Any:
        calls = []

        def call(*arguments: torch.Tensor) -> Any:
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError("out of memory")
            return graph(*arguments)

        return call

    run = RegionalCompile(lambda x: x + 1, backend=failing_later)
    run(torch.ones(2))
    with pytest.raises(RuntimeError, match="out of memory"):
        run(torch.ones(2))
