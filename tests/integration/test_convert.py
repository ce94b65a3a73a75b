"""Conversion against what the engine itself writes, reads and computes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanotron_zagreus.checkpoints.architecture import read_json
from nanotron_zagreus.checkpoints.model_shards import open_model_shards
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.conversion.from_hf import import_folder
from nanotron_zagreus.conversion.nanotron_layout import CheckpointFormat
from nanotron_zagreus.conversion.reference_forward import reference_logits
from nanotron_zagreus.conversion.source import open_checkpoint
from nanotron_zagreus.conversion.to_hf import convert_checkpoint
from nanotron_zagreus.engine.detection import find_engine
from tests.integration.tiny_runs import REPOSITORY, launch, read_losses, tiny_config, write_config
from tests.unit.conversion_fixtures import TINY, write_checkpoint, write_tokenizer_folder
from tests.unit.engine_model import build_model

pytestmark = pytest.mark.integration

VOCAB_SIZE = 131  # of engine_checkpoints.py
LAYOUTS = {
    "tied-tp1-pp1": (1, 1, 1, "float32"),
    "tied-tp2-pp1": (2, 1, 1, "float32"),
    "tied-tp1-pp2": (1, 2, 1, "float32"),
    "untied-tp1-pp1": (1, 1, 0, "bfloat16"),
    "untied-tp2-pp2": (2, 2, 0, "bfloat16"),
}


@pytest.fixture(scope="module")
def engine_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model written by the engine's own save_weights in every layout."""
    root = tmp_path_factory.mktemp("engine")
    write_tokenizer_folder(root / "tokenizer")
    launches: dict[int, list[str]] = {}
    for name, (tp, pp, tied, dtype) in LAYOUTS.items():
        launches.setdefault(tp * pp, []).append(f"{root / name}:{tp}:{pp}:{tied}:{dtype}")
    for num_processes, models in launches.items():
        launch(models, num_processes=num_processes, worker=Path(__file__).with_name("engine_checkpoints.py"))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_engine_writes_converts_and_does_not_depend_on_the_layout(engine_root: Path, layout: str) -> None:
    record = convert_checkpoint(engine_root / layout, engine_root / f"hf-{layout}", engine_root / "tokenizer")
    assert record.verification is not None
    assert record.verification.top1_agreement == 1.0
    assert (record.tp, record.pp) == LAYOUTS[layout][:2]
    # The engine starts the same model in every layout, so the converted files must be one and the same.
    one_rank = engine_root / f"hf-{layout.split('-')[0]}-tp1-pp1/model.safetensors"
    assert (engine_root / f"hf-{layout}/model.safetensors").read_bytes() == one_rank.read_bytes()


def test_our_writer_writes_what_the_engine_writes(engine_root: Path, tmp_path: Path) -> None:
    files_of: CheckpointFormat = "main" if find_engine().name == "nanotron-main" else "0.4"
    for layout in ("tied-tp2-pp1", "untied-tp2-pp2"):
        tp, pp, _, _ = LAYOUTS[layout]
        convert_checkpoint(engine_root / layout, tmp_path / layout / "hf", engine_root / "tokenizer", verify=False)
        folders = (tmp_path / layout / "hf", tmp_path / layout / "imported")
        import_folder(*folders, tp=tp, pp=pp, engine=files_of, verify=False)
        theirs = {path.relative_to(engine_root / layout) for path in (engine_root / layout).rglob("*.safetensors")}
        ours = {
            path.relative_to(tmp_path / layout / "imported")
            for path in (tmp_path / layout / "imported").rglob("*.safetensors")
        }
        assert ours == theirs
        for relative in theirs:
            found = read_file(tmp_path / layout / "imported" / relative)
            wanted = read_file(engine_root / layout / relative)
            if (
                files_of == "main"
                and found[0]["data"]["shape"][0] == (VOCAB_SIZE + 1) // 2
                and "tp-rank-1" in str(relative)
            ):
                # The padded row: upstream's model would count it, so the import writes no zeros there.
                found, wanted = without_last_row(found), without_last_row(wanted)
            # For 0.4 the padded row, too: zeros from the import, zeros in this project's model.
            assert found == wanted, relative


def read_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return header and data; the safetensors library writes the metadata in no fixed order."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    return {"__metadata__": {}} | header, raw[end:]


def without_last_row(file: tuple[dict[str, Any], bytes]) -> tuple[dict[str, Any], bytes]:
    """Return what :func:`read_file` gave, less the bytes of the tensor's last row."""
    header, data = file
    return header, data[: -(len(data) // header["data"]["shape"][0])]


@pytest.mark.parametrize("layout", ["tied-tp2-pp1", "tied-tp1-pp2", "untied-tp2-pp2"])
def test_the_reference_forward_is_the_training_model_s(engine: Any, engine_root: Path, layout: str) -> None:
    from nanotron_zagreus.training.loading import load_weights

    source = open_checkpoint(engine_root / layout)
    model = build_model(read_json(source.path / "model_config.json"))
    load_weights(model, source.path)
    tokens = torch.randint(131, (128,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = model.model.hidden_states(tokens[None], model.model.positions(tokens[None], None, None))
        trained = model.model.lm_head.pp_block.logits(hidden)[0]
    reference = reference_logits(source.arch, lambda name: source.shards.tensors[name].read(), tokens)
    difference = float((trained[:, :131] - reference[:, :131]).abs().max())
    print(f"{layout}: training model against reference forward {difference:.2e}")
    assert difference <= 1e-4
    assert float(reference.abs().max()) > 1


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2)])
def test_the_engine_s_own_loader_reads_an_imported_checkpoint(
    engine: Any, engine_root: Path, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    from nanotron.serialize.weights import load_weights

    from nanotron_zagreus.engine.cuda_as_cpu import cuda_as_cpu

    convert_checkpoint(engine_root / "tied-tp1-pp1", tmp_path / "hf", engine_root / "tokenizer", verify=False)
    # tp x make_vocab_size_divisible_by is 2 both times: the engine pads to the same number of rows.
    tp, pp = sizes
    import_folder(tmp_path / "hf", tmp_path / "imported", tp=tp, pp=pp, make_vocab_size_divisible_by=2 // tp)
    model = build_model(read_json(tmp_path / "imported" / "model_config.json"))
    with cuda_as_cpu():
        load_weights(model, model.parallel_context, tmp_path / "imported")
    wanted = open_model_shards(engine_root / "tied-tp1-pp1").tensors
    for name, param in model.named_parameters():
        if "lm_head" not in name:
            assert torch.equal(param[: wanted[name].shape[0]], wanted[name].read()), name


def test_training_goes_on_from_an_imported_checkpoint(tmp_path: Path) -> None:
    """The first loss from an imported checkpoint is that of the converted model on the same samples.

    A third run in the same launch starts from a checkpoint with one changed byte, and is refused.
    """
    write_tokenizer_folder(tmp_path / "tokenizer", 64)
    trained = tiny_config(
        tmp_path, tokens__train_steps=5, model__model_config__bos_token_id=0, model__model_config__eos_token_id=1
    )
    trained["data_stages"] = trained["data_stages"][:1]
    launch([write_config(tmp_path / "first.yaml", trained)], num_processes=1)
    record = convert_checkpoint(tmp_path / "checkpoints", tmp_path / "hf", tmp_path / "tokenizer")
    assert record.verification is not None
    assert record.step == 5
    files = {}
    shutil.copytree(tmp_path / "checkpoints/5", tmp_path / "changed")
    damaged = next((tmp_path / "changed/model").rglob("*down_proj*/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    starts = {"original": "checkpoints/5", "imported": "imported", "damaged": "changed"}
    for name, start in starts.items():
        path = tmp_path / start
        run = trained | {"model": trained["model"] | {"init_method": {"path": str(path)}}}
        run["checkpoints"] = trained["checkpoints"] | {"checkpoints_path": str(tmp_path / name)}
        run["parallelism"] = {"dp": 1, "tp": 2, "pp": 1}
        files[name] = write_config(tmp_path / f"{name}.yaml", run)
    import_folder(tmp_path / "hf", tmp_path / "imported", tp=1, pp=2)
    (tmp_path / "original").mkdir()
    done = launch(list(files.values()), num_processes=2, check=False)
    assert f"VerificationError: model.init_method.path: checkpoint {tmp_path / 'changed'} is damaged" in done.stderr
    assert not (tmp_path / "damaged/metrics.jsonl").exists()
    losses = {name: read_losses(tmp_path / name) for name in ("original", "imported")}
    assert losses["imported"] == losses["original"]
    assert losses["imported"][1] < read_losses(tmp_path / "checkpoints")[1] - 0.1


def test_the_master_weights_are_exported_from_any_layout(tmp_path: Path) -> None:
    write_tokenizer_folder(tmp_path / "tokenizer", 64)
    names = {"model__model_config__bos_token_id": 0, "model__model_config__eos_token_id": 1}
    bf16 = {"model__dtype": "bfloat16", "optimizer__accumulate_grad_in_fp32": True, "tokens__train_steps": 5}
    layout = {"parallelism__tp": 2, "optimizer__zero_stage": 0}
    run = tiny_config(tmp_path, **names, **bf16, **layout)
    run["data_stages"] = run["data_stages"][:1]
    launch([write_config(tmp_path / "run.yaml", run)], num_processes=2)
    plain = convert_checkpoint(tmp_path / "checkpoints/5", tmp_path / "bf16", tmp_path / "tokenizer")
    masters = convert_checkpoint(tmp_path / "checkpoints/5", tmp_path / "fp32", tmp_path / "tokenizer", masters=True)
    assert (plain.dtype, masters.dtype, masters.masters) == ("BF16", "F32", True)
    assert masters.verification is not None
    rounded, exact = (load_file(tmp_path / folder / "model.safetensors") for folder in ("bf16", "fp32"))
    assert all(torch.equal(exact[name].to(torch.bfloat16), rounded[name]) for name in rounded)
    assert any(not torch.equal(exact[name], rounded[name].float()) for name in rounded)


def test_the_published_commands_work(engine_root: Path, tmp_path: Path) -> None:
    """The card's command line, and the way back, under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "-m"]
    tokenizer = ["--tokenizer_name", str(engine_root / "tokenizer")]
    steps = [
        ("convert_nanotron_to_hf", engine_root / "tied-tp2-pp1", tmp_path / "hf", tokenizer),
        ("convert_hf_to_nanotron", tmp_path / "hf", tmp_path / "back", ["--tp", "2"]),
    ]
    for script, source, out, options in steps:
        arguments = [f"examples.llama.{script}", f"--checkpoint_path={source}", f"--save_path={out}", *options]
        done = subprocess.run(
            [*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "verified" in done.stdout
    assert open_checkpoint(tmp_path / "back").arch == open_checkpoint(engine_root / "tied-tp2-pp1").arch


def test_the_readme_s_commands_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Continued pretraining, GGUF, card and push, on a small model under the README's names."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### 6. Continue pretraining, publish, GGUF")[2].partition("\n#")[0]
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^    (zagreus .*)$", section, re.MULTILINE)]
    assert [words[1] for words in commands] == ["import", "convert", "card", "push"]
    monkeypatch.chdir(tmp_path)
    write_tokenizer_folder(tmp_path / "tokenizer")
    arch = replace(TINY, hidden_size=160, intermediate_size=160)
    write_checkpoint(tmp_path / "checkpoints/5000", arch, tp=5, dtype=torch.bfloat16)
    run_facts = {"tokens": {"sequence_length": 16}, "model": {"model_config": {"vocab_size": 131}}}
    (tmp_path / "checkpoints/5000/config.yaml").write_text(json.dumps(run_facts))
    assert run(["convert", "checkpoints/5000", "hf/5000", "--tokenizer", "tokenizer"]) == 0
    (tmp_path / "card.yaml").write_text("language: [en, pt]\nlicense: apache-2.0\nbase_model: org/base\ncitation: us\n")
    (tmp_path / "results").mkdir()
    scores = {"results": {"arc_pt": {"acc,none": 0.25}}, "model_name": "hf/5000"}
    (tmp_path / "results/results_1.json").write_text(json.dumps(scores))
    for words in commands:
        assert run([word.replace("meta-llama/Llama-3.2-1B", "tokenizer") for word in words[1:]]) == 0, words
    said = capsys.readouterr().out
    assert "init_method:" in said and "model-Q8_0.gguf" in said and "branch step20-tokens10.2K" in said
