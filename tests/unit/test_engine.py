"""Finding, repairing and containing the engine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu
from nanotron_zagreus.engine.detection import find_engine
from nanotron_zagreus.errors import InputError


def test_pypis_nanotron_cannot_be_imported_by_itself() -> None:
    """The day this fails, the repair of the import circle can go."""
    if find_engine().name != "nanotron-0.4":
        pytest.skip("the engine installed here is not PyPI's")
    done = subprocess.run([sys.executable, "-c", "import nanotron.trainer"], capture_output=True, check=False)
    assert done.returncode != 0


def test_bring_up_is_idempotent_and_leaves_no_stand_in_behind() -> None:
    code = """
import sys
from nanotron_zagreus.engine.bringup import bring_up
first = bring_up()
import nanotron.trainer, nanotron.distributed as dist, nanotron.config
reduce = dist.all_reduce
assert bring_up() == first
assert dist.all_reduce is reduce
assert "flash_attn" not in sys.modules
assert nanotron.config.config.__file__
import importlib.util
assert importlib.util.find_spec("flash_attn") is None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def bring_up_in_a_process(more: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys\nfrom nanotron_zagreus.engine.bringup import bring_up\nengine = bring_up()\n" + more
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables)


def with_package(folder: Path, name: str, code: str) -> str:
    """Return a PYTHONPATH on which a package of this code comes before the installed one."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_an_installed_but_broken_flash_attn_is_done_without(tmp_path: Path) -> None:
    path = with_package(tmp_path, "flash_attn", "raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c10')")
    done = bring_up_in_a_process("import nanotron.trainer", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("flash_attn is installed but cannot be used here") == 1
    assert "undefined symbol" in done.stderr


def test_a_package_of_the_wrong_version_is_not_called_missing(tmp_path: Path) -> None:
    done = bring_up_in_a_process(PYTHONPATH=with_package(tmp_path, "dacite", ""))
    assert done.returncode != 0
    assert "InputError: engine: nanotron imports what dacite" in done.stderr and "not installed" not in done.stderr


def test_the_release_starts_without_libraries_that_training_never_uses() -> None:
    code = "print(engine.name, *({'datasets', 'transformers', 'pandas', 'pyarrow'} & set(sys.modules)))"
    name, *loaded = bring_up_in_a_process(code).stdout.split()
    if name != "nanotron-0.4":
        pytest.skip("the engine installed here is not PyPI's")
    assert loaded == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: nothing is redirected")
def test_cuda_reads_as_cpu_inside_the_context_only() -> None:
    before = torch.cuda.set_device
    with cuda_as_cpu():
        assert torch.zeros(2, device="cuda").device.type == "cpu"
        assert torch.tensor(1, device=torch.device("cuda")).device.type == "cpu"
        assert torch.ones(2).to("cuda:0").device.type == "cpu"
        torch.cuda.set_device(3)
    assert torch.cuda.set_device is before
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")


def timeout_of(group: Any) -> timedelta:
    return group._get_backend(torch.device("cpu")).options._timeout


def test_every_group_waits_as_long_as_the_default_one(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a collective may give up before the watchdog has named the rank that is missing."""
    from nanotron import distributed as dist

    from nanotron_zagreus.engine import launch
    from nanotron_zagreus.training import control

    assert launch.timeout_of_groups() == timeout_of(torch.distributed.group.WORLD)
    monkeypatch.setattr(launch, "_timeout", [timedelta(seconds=4321)])
    assert timeout_of(dist.new_group(ranks=[0])) == timedelta(seconds=4321)
    ours = control.StepControl(tmp_path, control.SignalRequests(), looks_at_files=True)
    assert timeout_of(ours.group) == timedelta(seconds=4321)


def test_a_barrier_names_the_rank_s_gpu(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanotron import distributed as dist

    seen = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda group, device_ids: seen.append((group, device_ids)))
    dist.barrier()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    group = object()
    dist.barrier(group=group)
    assert seen == [(None, None), (group, [3])]


def test_more_ranks_than_gpus_on_a_node_are_refused_before_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import distributed

    from nanotron_zagreus.engine.launch import start_process_group

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a device or a group was asked for")

    monkeypatch.setattr(distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(distributed, "init_process_group", unreachable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", unreachable)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(InputError, match=r"nproc_per_node: got 2 ranks.*1 CUDA devices.*start 1.*CUDA_VISIBLE_DEVICES"):
        start_process_group()


def test_ranks_that_torchrun_starts_again_with_the_store_of_those_before_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nanotron_zagreus.engine.launch import check_restart

    def launched(most: int, *, restarts: int, shares: bool) -> None:
        names = ("TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE")
        for name, value in zip(names, (most, restarts, shares), strict=True):
            monkeypatch.setenv(name, str(value))

    assert check_restart() == ""
    launched(0, restarts=0, shares=True)
    assert check_restart() == ""
    launched(3, restarts=1, shares=False)
    assert check_restart() == ""
    launched(3, restarts=0, shares=True)
    assert "--max_restarts" in check_restart()
    launched(3, restarts=1, shares=True)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for rank, waits in ((0, 0), (3, 1)):
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1") as caught:
            check_restart()
        assert caught.value.agreed, "rank 0 prints it for all"
        assert len(waited) == waits, "torchrun ends rank 0 as soon as another one has ended"


def test_cuda_is_hidden_from_every_test_but_those_of_a_gpu() -> None:
    from gpu_session import only_gpu_tests

    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    gpu = str(Path(__file__).parents[1] / "gpu")
    assert only_gpu_tests([gpu]) and only_gpu_tests([f"{gpu}/test_training_on_cuda.py::test_x"])
    assert not only_gpu_tests([gpu, __file__])
    assert not only_gpu_tests([str(Path(__file__).parents[1])])


def test_every_gradient_bucket_is_waited_for(engine: Any) -> None:
    from nanotron.optim.gradient_accumulator import FP32GradientAccumulator

    accumulator = object.__new__(FP32GradientAccumulator)
    waited = []
    for bucket in range(3):
        handle = type("Handle", (), {"wait": lambda self, bucket=bucket: waited.append(bucket)})()
        accumulator.fp32_grads_allreduce_handle = handle
    accumulator.fp32_grads_allreduce_handle.wait()
    assert waited == [0, 1, 2]
    accumulator.fp32_grads_allreduce_handle.wait()
    assert waited == [0, 1, 2]


def test_pipeline_states_do_not_share_queues(engine: Any) -> None:
    from nanotron.parallel.pipeline_parallel.state import PipelineTrainBatchState

    first, second = PipelineTrainBatchState(), PipelineTrainBatchState()
    first.microbatches_activations_to_send.append("tensor")
    first.activations_buffer.append("tensor")
    assert not second.microbatches_activations_to_send
    assert not second.activations_buffer


def test_shard_metadata_holds_plain_numbers(engine: Any) -> None:
    import numpy as np
    from nanotron.constants import CHECKPOINT_VERSION
    from nanotron.serialize.metadata import TensorMetadata

    metadata = TensorMetadata(
        version=CHECKPOINT_VERSION, local_global_slices_pairs=(), unsharded_shape=(np.int64(128), 64)
    )
    assert metadata.to_str_dict()["unsharded_shape"] == "(128, 64)"
