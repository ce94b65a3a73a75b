"""200 steps with every fast path on against 200 steps of the plain references: the same training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import launch, read_losses, tiny_config, write_config

pytestmark = pytest.mark.integration

STEPS = 200
DOCUMENTS = {"zagreus__document_masking": True}
PLAIN = {**DOCUMENTS, "zagreus__cross_entropy": "plain", "zagreus__attention": "sdpa"}
FAST = {**DOCUMENTS, "zagreus__cross_entropy": "chunked", "zagreus__attention": "per_document"}
COMPILED = {**FAST, "zagreus__compile_blocks": True}
BFLOAT16 = {"model__dtype": "bfloat16", "optimizer__accumulate_grad_in_fp32": True}
RUNS = {
    "plain": PLAIN,
    "fast": FAST,
    "compiled": COMPILED,
    "plain-bf16": {**PLAIN, **BFLOAT16},
    "fast-bf16": {**FAST, **BFLOAT16},
}
SCHEDULE = {"learning_rate": 0.002, "lr_warmup_steps": 10, "lr_decay_starting_step": 100, "lr_decay_steps": 100}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fast-paths")
    files = []
    for name, overrides in RUNS.items():
        config = tiny_config(root, **overrides, checkpoints__checkpoints_path=str(root / name))
        config["checkpoints"]["checkpoint_interval"] = 1000
        config["tokens"] |= {"train_steps": STEPS, "batch_accumulation_per_replica": 2}
        config["optimizer"]["learning_rate_scheduler"] = {**SCHEDULE, "min_decay_lr": 0.0002}
        files.append(write_config(root / f"{name}.yaml", config))
    done = launch(files, num_processes=1)
    (root / "log").write_text(done.stdout + done.stderr)
    return root


@pytest.mark.parametrize(
    ("fast", "plain", "bound"),
    [
        # fp32: only the order of additions differs.
        ("fast", "plain", 1e-5),
        ("compiled", "plain", 1e-5),
        # bf16: what rounding does anyway; the bf16 reference is as far from the fp32 one.
        ("fast-bf16", "plain-bf16", 2e-2),
    ],
)
def test_fast_paths_train_as_the_references_do(fast: str, plain: str, bound: float, root: Path) -> None:
    ours, reference = read_losses(root / fast), read_losses(root / plain)
    assert len(ours) == len(reference) == STEPS
    assert reference[STEPS] < reference[1] - 0.5
    worst = max(abs(ours[step] - reference[step]) for step in reference)
    drift = sum(ours[step] - reference[step] for step in reference) / STEPS
    print(f"{fast}: largest loss difference {worst:.2e}, mean {drift:+.2e}")
    assert worst <= bound
    assert abs(drift) <= bound / 10


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, g++ is not here")
def test_the_compiled_run_was_compiled(root: Path) -> None:
    assert "blocks run uncompiled" not in (root / "log").read_text()
