"""Every way of dividing the work trains the same model: losses against one process, the same global batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import launch, read_events, read_figures, read_losses, tiny_config, write_config

pytestmark = pytest.mark.integration

BFLOAT16 = {"model__dtype": "bfloat16", "optimizer__accumulate_grad_in_fp32": True}
DP2 = {"parallelism__dp": 2, "tokens__batch_accumulation_per_replica": 2}
TP2 = {"parallelism__tp": 2}
PP2 = {"parallelism__pp": 2}
CHECKED = {"general__ignore_sanity_checks": False}
REDUCED = {"zagreus__gradient_reduction": "bfloat16"}
UNTIED = {"model__model_config__tie_word_embeddings": False}
DOCUMENTS = {
    "zagreus__document_masking": True,
    "zagreus__validation_windows_per_source": 4,
    "tokens__val_check_interval": 6,
    "tokens__limit_val_batches": 4,
}
ONE_PROCESS = {
    "tied": {},
    "untied": UNTIED,
    "bf16": BFLOAT16,
    # The plain masked attention, which the kernel of the other runs with documents must agree with.
    "documents": {**DOCUMENTS, "zagreus__attention": "sdpa"},
    "documents-per-document": {**DOCUMENTS, "logging__log_level": "info"},
}
LAYOUTS = {
    "dp2": ("tied", DP2),
    "dp2-zero1": ("tied", {**DP2, "optimizer__zero_stage": 1}),
    "tp2-all-reduce": ("tied", {**TP2, "parallelism__tp_mode": "ALL_REDUCE"}),
    "tp2-reduce-scatter": ("tied", {**TP2, "parallelism__tp_mode": "REDUCE_SCATTER"}),
    "pp2-1f1b": ("tied", {**PP2, "parallelism__pp_engine": "1f1b"}),
    "pp2-afab": ("tied", {**PP2, "parallelism__pp_engine": "afab"}),
    "tp2-padded-vocab": ("tied", {**TP2, "model__make_vocab_size_divisible_by": 35}),
    "dp2-recompute": ("tied", {**DP2, "parallelism__recompute_layer": True}),
    "tp2-untied": ("untied", {**UNTIED, **TP2}),
    "pp2-untied": ("untied", {**UNTIED, **PP2}),
    "dp2-bf16": ("bf16", {**BFLOAT16, **DP2}),
    "dp2-bf16-zero1": ("bf16", {**BFLOAT16, **DP2, "optimizer__zero_stage": 1}),
    "tp2-bf16": ("bf16", {**BFLOAT16, **TP2}),
    "dp2-bf16-checked": ("bf16", {**BFLOAT16, **DP2, **CHECKED}),
    "pp2-bf16-checked": ("bf16", {**BFLOAT16, **PP2, **CHECKED}),
    "dp2-reduced-in-bf16": ("bf16", {**BFLOAT16, **DP2, **REDUCED}),
    "dp2-reduced-in-bf16-zero1": ("bf16", {**BFLOAT16, **DP2, **REDUCED, "optimizer__zero_stage": 1}),
    "dp2-documents": ("documents", {**DOCUMENTS, **DP2}),
    "tp2-documents": ("documents", {**DOCUMENTS, **TP2, "parallelism__tp_mode": "REDUCE_SCATTER"}),
    # The rank that holds the loss is a replica for the engine, and replicas log warnings only.
    "pp2-documents": ("documents", {**DOCUMENTS, **PP2, "logging__log_level": "info"}),
}
COMPILED = {"zagreus__compile_blocks": True}
if shutil.which("g++"):  # what torch.compile needs on a CPU
    LAYOUTS |= {
        "dp2-compiled": ("tied", {**DP2, **COMPILED}),
        "pp2-compiled": ("tied", {**PP2, **COMPILED}),
        "dp2-compiled-recompute": ("tied", {**DP2, **COMPILED, "parallelism__recompute_layer": True}),
        "dp2-fused-loss": ("tied", DP2),
        "tp2-fused-loss": ("tied", TP2),
    }
# fp32: only the order of additions differs. bf16 rounds every activation: an order of additions shows in 8 bits.
TOLERANCE = {"tied": 1e-5, "untied": 1e-5, "bf16": 2e-2, "documents": 1e-5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs: two launches, one of one process and one of two."""
    root = tmp_path_factory.mktemp("topologies")
    runs = dict(ONE_PROCESS)
    runs |= {name: overrides for name, (_, overrides) in LAYOUTS.items()}
    files = {}
    for name, overrides in runs.items():
        config = tiny_config(root, **overrides, checkpoints__checkpoints_path=str(root / name))
        config["checkpoints"]["checkpoint_interval"] = 1000
        files[name] = write_config(root / f"{name}.yaml", config)
    done = launch([files[name] for name in ONE_PROCESS], num_processes=1)
    (root / "log").write_text(done.stdout + done.stderr)
    in_two = [f"fused-loss:{files[name]}" if "fused-loss" in name else files[name] for name in LAYOUTS]
    done = launch(in_two, num_processes=2)
    (root / "log-of-two").write_text(done.stdout + done.stderr)
    return root


@pytest.fixture(scope="module")
def losses(root: Path) -> dict[str, dict[int, float]]:
    return {name: read_losses(root / name) for name in (*ONE_PROCESS, *LAYOUTS)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_losses_of_one_process(layout: str, losses: dict[str, dict[int, float]]) -> None:
    reference = LAYOUTS[layout][0]
    assert losses[layout].keys() == losses[reference].keys() == set(range(1, 13))
    worst = max(abs(losses[layout][step] - losses[reference][step]) for step in losses[layout])
    print(f"{layout}: largest loss difference {worst:.2e}")
    assert worst <= TOLERANCE[reference]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_measures_the_gradient_norm_of_one_process(layout: str, root: Path) -> None:
    """Losses alone would not tell a mean over replicas from a sum: Adam does not see the scale of its gradients."""
    reference = LAYOUTS[layout][0]
    ours, theirs = (read_figures(root / name, "grad_norm") for name in (layout, reference))
    # Later a weight's last bit in bf16 may change a small gradient by half of it.
    worst = max(abs(ours[step] / theirs[step] - 1) for step in range(1, 7))
    print(f"{layout}: largest relative difference of the gradient norm {worst:.2e}")
    assert worst <= TOLERANCE[reference]


def test_gradients_that_travel_in_bf16_are_rounded_and_the_same_under_zero_1(
    losses: dict[str, dict[int, float]],
) -> None:
    rounded, exact = losses["dp2-reduced-in-bf16"], losses["dp2-bf16"]
    assert rounded[12] != exact[12]
    assert rounded == losses["dp2-reduced-in-bf16-zero1"]


def test_training_learns_the_distribution(losses: dict[str, dict[int, float]]) -> None:
    assert losses["tied"][12] < losses["tied"][1] - 0.5


def test_documents_kept_apart_train_and_validate_as_plain_masked_attention_does(
    root: Path, losses: dict[str, dict[int, float]]
) -> None:
    ours, plain = losses["documents-per-document"], losses["documents"]
    assert max(abs(ours[step] - plain[step]) for step in plain) <= 1e-5
    # Documents of 41 tokens in windows of 32: most windows hold a boundary.
    assert max(abs(plain[step] - losses["tied"][step]) for step in plain) > 1e-3
    validations = [read_events(root / name, "validation") for name in ("documents-per-document", "documents")]
    assert len(validations[0]) == len(validations[1]) == 4
    for first, second in zip(*validations, strict=True):
        assert abs(first["loss"] - second["loss"]) <= 1e-5


def test_what_should_be_compiled_was(root: Path) -> None:
    assert "run uncompiled" not in (root / "log-of-two").read_text()


def test_the_log_says_which_attention_kernel_runs_and_why(root: Path) -> None:
    assert "attention: per_document (auto on cpu)" in (root / "log").read_text()


def test_the_last_stage_logs_every_step_and_validation_once_where_replicas_log_warnings_only(root: Path) -> None:
    lines = (root / "log-of-two").read_text().splitlines()
    steps = [line.split("iteration: ")[1].split(" |")[0] for line in lines if "iteration: " in line]
    assert steps == [f"{step} / 12" for step in range(1, 13)]
    assert all("|PP=1" in line for line in lines if "iteration: " in line)
    assert sum("validation: " in line for line in lines) == 4
