"""The manifest notices every change, and leads nowhere outside the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints import inventory, manifest
from nanotron_zagreus.checkpoints.layout import write_latest
from nanotron_zagreus.checkpoints.manifest import FileRecord
from nanotron_zagreus.errors import InputError, MissingInputError, VerificationError

FILES = {"model/a.safetensors": b"weights", "optimizer/b.safetensors": b"moments", "config.yaml": b"x: 1\n"}


def make_checkpoint(folder: Path, facts: dict[str, object] | None = None) -> Path:
    records = []
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        records.append(FileRecord(path=name, bytes=len(content), sha256=manifest.hash_file(path)))
    (folder / "model_config.json").write_text("{}")
    path = folder / "model_config.json"
    records.append(FileRecord(path=path.name, bytes=2, sha256=manifest.hash_file(path)))
    default = {"step": 5, "consumed_samples": 40, "topology": {"dp": 1, "tp": 1, "pp": 1}}
    manifest.write_manifest(folder, records, {**default, **(facts or {})})
    return folder


def test_a_sound_checkpoint_is_verified(tmp_path: Path) -> None:
    assert len(manifest.verify(make_checkpoint(tmp_path / "5"))) == 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "link"])
def test_any_damage_is_found_and_the_file_named(name: str, damage: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "link":
        (tmp_path / "copy").write_bytes(content)
        path.symlink_to(tmp_path / "copy")
    with pytest.raises(VerificationError, match=name):
        manifest.verify(folder)


def test_a_file_that_its_disk_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path / "10")

    def refuse(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("nanotron_zagreus.checkpoints.manifest.hash_file", refuse)
    with pytest.raises(VerificationError, match=r"config\.yaml: cannot be read \(Input/output error\)"):
        manifest.verify(folder)


def test_a_file_that_the_manifest_does_not_know_is_found(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    (folder / "optimizer" / "extra.pt").write_bytes(b"pickle")
    with pytest.raises(VerificationError, match=r"extra\.pt"):
        manifest.verify(folder)


def test_the_parts_of_a_shared_verification_cover_every_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    (folder / "config.yaml").write_bytes(b"x: 2\n")
    found = []
    for index in range(3):
        try:
            manifest.verify(folder, part=(index, 3))
        except VerificationError as error:
            found.append(str(error))
    assert len(found) == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b", ""])
def test_a_manifest_that_names_a_path_outside_is_refused(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    content = json.loads((folder / "manifest.json").read_text())
    content["files"][0]["path"] = name
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="outside"):
        manifest.verify(folder)


def test_a_manifest_that_goes_through_a_link_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    (folder / "model").rename(tmp_path / "model")
    (folder / "model").symlink_to(tmp_path / "model")
    with pytest.raises(InputError, match="symbolic link"):
        manifest.verify(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"format": 99, "files": []}'])
def test_an_unreadable_manifest_is_one_clear_error(text: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        manifest.read_manifest(folder)


@pytest.mark.parametrize(
    "change",
    [{"consumed_samples": 41}, {"data": {"stages": [{"legs": [[7, 4, 8]]}]}}, {"files": []}, {"sha256": "0" * 64}],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_was_changed_is_found_by_its_own_hash(change: dict[str, object], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5", {"data": {"stages": [{"legs": [[7, 0, 8]]}]}})
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content))  # other spaces say the same
    assert len(manifest.verify(folder)) == 4
    (folder / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(VerificationError, match=r"manifest\.json"):
        manifest.read_manifest(folder)


def test_a_manifest_without_its_hash_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    content = json.loads((folder / "manifest.json").read_text())
    del content["sha256"]
    (folder / "manifest.json").write_text(json.dumps(content | {"format": 1}))
    with pytest.raises(InputError, match="format 1, this version reads 2"):
        manifest.read_manifest(folder)


def test_a_checkpoint_without_manifest_is_not_taken(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    (folder / "manifest.json").unlink()
    with pytest.raises(MissingInputError):
        manifest.verify(folder)


def test_pruning_keeps_the_newest_the_multiples_and_the_newest_sound_one(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        make_checkpoint(tmp_path / str(step), {"step": step})
    write_latest(tmp_path, 50)
    (tmp_path / "50" / "config.yaml").write_bytes(b"!")
    (tmp_path / "40" / "config.yaml").write_bytes(b"!")
    assert inventory.steps_to_prune(tmp_path, keep_last=1, keep_every=20) == [10]
    assert inventory.newest_sound_step(tmp_path) == 30
    inventory.delete_step(tmp_path, 10)
    assert [row["step"] for row in inventory.describe_steps(tmp_path)] == [20, 30, 40, 50]


def test_folders_with_a_number_that_are_no_checkpoints_are_never_deleted(tmp_path: Path) -> None:
    """Converted models have such names, too."""
    for step in (10, 20, 30):
        (tmp_path / str(step)).mkdir()
        (tmp_path / str(step) / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"10: not a checkpoint, it holds no model_config\.json"):
        inventory.steps_to_prune(tmp_path, keep_last=1, keep_every=None)
    for step in (40, 50):
        make_checkpoint(tmp_path / str(step), {"step": step})
    write_latest(tmp_path, 50)
    assert inventory.steps_to_prune(tmp_path, keep_last=1, keep_every=None, verified=True) == [40]


def test_steps_of_a_run_given_up_neither_count_nor_go(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        make_checkpoint(tmp_path / str(step), {"step": step})
    write_latest(tmp_path, 30)  # the run went back to 20, and has just saved 30
    assert inventory.steps_to_prune(tmp_path, keep_last=2, keep_every=None, verified=True) == [10]


def test_a_part_is_verified_without_the_rest(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "5")
    (folder / "optimizer/b.safetensors").unlink()
    (folder / "model/of_another_node.safetensors").write_bytes(b"weights")
    assert [record.path for record in manifest.verify(folder, only=("model/",))] == ["model/a.safetensors"]
    (folder / "model/a.safetensors").write_bytes(b"weighed")
    with pytest.raises(VerificationError, match=r"a\.safetensors"):
        manifest.verify(folder, only=("model/",))
