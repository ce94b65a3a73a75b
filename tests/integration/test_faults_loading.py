"""Checkpoints that are damaged, or not the run's: found before anything is loaded. CPU, gloo, at most two ranks."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_runs import (
    launch,
    tiny_config,
    write_config,
)

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import load_config
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError
from nanotron_zagreus.training.resume_point import find_resume_point

pytestmark = pytest.mark.integration


def test_damage_in_any_file_is_found_before_loading(saved: Path, tmp_path: Path) -> None:
    files = [record["path"] for record in manifest.read_manifest(saved / "plain" / "5")["files"]]
    for name in [*files, layout.MANIFEST_FILE]:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", str(saved / "plain" / "5"), str(copy)], check=True)
        path = copy / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises((VerificationError, InputError), match=re.escape(name)):
            manifest.verify(copy)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises((VerificationError, InputError), match=re.escape(name)):
            manifest.verify(copy)
        subprocess.run(["rm", "-r", str(copy)], check=True)


def test_a_damaged_checkpoint_is_refused_or_the_one_before_taken_as_configured(saved: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    subprocess.run(["cp", "-r", str(saved / "plain"), str(root)], check=True)
    victim = next((root / "10" / "optimizer").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    # A pickle that would make a file, were it ever opened.
    canary = tmp_path / "canary"
    (root / "10" / "optimizer" / "evil.pt").write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    config = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path="auto")
    refused = launch([write_config(tmp_path / "strict.yaml", config)], num_processes=1, check=False)
    assert refused.returncode != 0
    assert victim.name in refused.stderr
    config["zagreus"]["checkpoints"] = {"fallback_to_newest_sound": True}
    launch([write_config(tmp_path / "fallback.yaml", config)], num_processes=1)
    reference = manifest.read_manifest(saved / "plain" / "10")["files"]
    again = {r["path"]: r["sha256"] for r in manifest.read_manifest(root / "10")["files"]}
    assert all(again[r["path"]] == r["sha256"] for r in reference if r["path"] != "config.yaml")
    assert not canary.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def change_counter(path: Path) -> None:
    path.write_text(path.read_text().replace('"consumed_samples": 80', '"consumed_samples": 90'))


DAMAGES = {
    "manifest.json cut": lambda step: cut(step / "manifest.json"),
    "manifest.json changed": lambda step: change_counter(step / "manifest.json"),
    "manifest.json missing": lambda step: (step / "manifest.json").unlink(),
    "config.yaml cut": lambda step: cut(step / "config.yaml"),
    "model_config.json missing": lambda step: (step / "model_config.json").unlink(),
    "checkpoint_metadata.json cut": lambda step: cut(step / "checkpoint_metadata.json"),
    "optimizer cut": lambda step: cut(next((step / "optimizer").iterdir())),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be the only rank of a launch."""
    from nanotron_zagreus.training import agreement, resume_choice

    for module in (agreement, resume_choice):
        monkeypatch.setattr(module, "exchange", lambda value: [value])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("wanted", ["auto", "step"])
def test_whatever_is_damaged_an_older_sound_step_is_taken_or_none(
    wanted: str, damage: str, saved: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.resume_choice import choose_resume_point

    root = tmp_path / "run"
    shutil.copytree(saved / "plain", root)
    shutil.copytree(saved / "final" / "12", root / "12")  # of a branch that was given up
    DAMAGES[damage](root / "10")
    path = "auto" if wanted == "auto" else str(root / "10")
    data = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path=path)
    with pytest.raises((VerificationError, InputError)):
        choose_resume_point(load_config(write_config(tmp_path / "strict.yaml", data)))
    data["zagreus"]["checkpoints"] = {"fallback_to_newest_sound": True}
    config = load_config(write_config(tmp_path / "fallback.yaml", data))
    point = choose_resume_point(config)
    assert point is not None and point.step == 5
    assert "going on from step 5" in capsys.readouterr().err
    cut(root / "5" / "config.yaml")
    with pytest.raises(VerificationError, match="No older step"):
        choose_resume_point(config)


def test_a_fallback_does_not_hide_that_the_run_does_not_fit(saved: Path, tmp_path: Path, alone: None) -> None:
    from nanotron_zagreus.training.resume_choice import choose_resume_point

    data = tiny_config(saved, checkpoints__resume_checkpoint_path=str(saved / "plain"), tokens__train_steps=9)
    data["zagreus"]["checkpoints"] = {"fallback_to_newest_sound": True}
    with pytest.raises(InputError, match="train_steps"):
        choose_resume_point(load_config(write_config(tmp_path / "c.yaml", data)))


def test_auto_takes_the_newest_whole_step_of_a_run_killed_before_its_first_latest_file(
    saved: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanotron_zagreus.training.resume_choice import choose_resume_point

    root = tmp_path / "run"
    shutil.copytree(saved / "plain", root)
    (root / "latest.txt").unlink()
    data = tiny_config(saved, checkpoints__checkpoints_path=str(root), checkpoints__resume_checkpoint_path="auto")
    config = load_config(write_config(tmp_path / "c.yaml", data))
    point = choose_resume_point(config)
    assert point is not None and point.step == 10
    assert "no latest.txt" in capsys.readouterr().err
    (root / "10" / "manifest.json").unlink()
    point = choose_resume_point(config)
    assert point is not None and point.step == 5


def test_a_resume_path_that_does_not_exist_is_an_error(saved: Path, tmp_path: Path) -> None:
    config = tiny_config(saved, checkpoints__resume_checkpoint_path=str(tmp_path / "nowhere"))
    with pytest.raises(MissingInputError, match="does not exist"):
        find_resume_point(load_config(write_config(tmp_path / "c.yaml", config)))


def test_resuming_another_model_or_a_finished_run_is_refused(saved: Path, tmp_path: Path) -> None:
    resume = {"checkpoints__resume_checkpoint_path": str(saved / "plain")}
    wider = tiny_config(saved, **resume, model__model_config__intermediate_size=96)
    with pytest.raises(InputError, match="intermediate_size"):
        find_resume_point(load_config(write_config(tmp_path / "wider.yaml", wider)))
    shorter = tiny_config(saved, **resume, tokens__train_steps=9)
    with pytest.raises(InputError, match="train_steps"):
        find_resume_point(load_config(write_config(tmp_path / "shorter.yaml", shorter)))


def test_a_fresh_run_does_not_write_into_another_runs_folder(saved: Path, tmp_path: Path) -> None:
    from nanotron_zagreus.training.run import run_training

    config = tiny_config(saved, checkpoints__checkpoints_path=str(saved / "plain"))
    with pytest.raises(InputError, match="resume_checkpoint_path"):
        run_training(write_config(tmp_path / "c.yaml", config))
