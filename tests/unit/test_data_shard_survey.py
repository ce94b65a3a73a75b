"""What is remembered of shards spares opening them and changes nothing else; damage and changes are noticed."""

import json
import os

import pytest

from nanotron_zagreus.data import shard_survey
from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.data.shard_survey import RECORD_NAME, survey_shards
from nanotron_zagreus.data.sources import open_source
from nanotron_zagreus.errors import InputError, MissingInputError
from tests.unit.data_fixtures import VOCAB_SIZE, make_config, write_shard, write_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Forty shards, whose files count as settled at once."""
    monkeypatch.setattr(shard_survey, "_SETTLED_NANOSECONDS", -(10**12))
    return write_source(tmp_path / "x", [3] * 40)


@pytest.fixture
def opened(monkeypatch):
    """The names of the shards that are opened from here on."""
    names = []
    real = shard_survey.read_shard
    monkeypatch.setattr(shard_survey, "read_shard", lambda path: names.append(path.name) or real(path))
    return names


def fingerprint(folder):
    return open_source(folder, sequence_length=8, num_validation_windows=2, seed=1, vocab_size=VOCAB_SIZE).fingerprint


def test_known_shards_are_not_opened_again_but_a_few_and_the_fingerprint_stays(folder, opened):
    first, survey = fingerprint(folder), survey_shards(folder)
    assert len(opened) == 40 + 16
    opened.clear()
    again = survey_shards(folder)
    assert len(set(opened)) == 16
    assert (again.shards, again.summaries) == (survey.shards, survey.summaries)
    assert fingerprint(folder) == first
    (folder / RECORD_NAME).unlink()
    assert fingerprint(folder) == first


def test_another_draw_is_read_each_time(folder, opened):
    survey_shards(folder)
    opened.clear()
    for _ in range(40):
        survey_shards(folder)
    assert len(set(opened)) == 40


def test_a_changed_a_new_and_a_lost_shard_are_seen(folder, opened):
    first = fingerprint(folder)
    opened.clear()
    write_shard(folder, 7, 30, first_token=500)
    write_shard(folder, 40, 30)
    changed = fingerprint(folder)
    assert {"00007_unshuffled.ds", "00040_unshuffled.ds"} <= set(opened)
    for suffix in ("", ".index", ".metadata"):
        (folder / f"00040_unshuffled.ds{suffix}").unlink()
    write_shard(folder, 7, 30, first_token=700)
    assert fingerprint(folder) == first, "the same content as at first"
    assert changed != first


@pytest.mark.parametrize("suffix", [".index", ".metadata"])
def test_a_shard_that_lost_a_part_or_has_another_is_no_longer_whole(suffix, folder):
    survey_shards(folder)
    part = folder / f"00003_unshuffled.ds{suffix}"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a whole shard"):
        survey_shards(folder)
    part.unlink()
    with pytest.raises(InputError, match="is missing"):
        survey_shards(folder)


def test_other_content_under_the_same_times_is_damage(folder, monkeypatch):
    monkeypatch.setattr(shard_survey, "_NUM_REREAD", 40)
    survey_shards(folder)
    record = json.loads((folder / RECORD_NAME).read_text())
    record["facts"][5][3] = "0123456789abcdef"  # the digest of the fourth
    (folder / RECORD_NAME).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"00003_unshuffled.ds: its content changed.*verify"):
        survey_shards(folder)


def test_files_written_a_moment_ago_are_read_again(tmp_path, opened):
    write_source(tmp_path / "x", [3] * 3)
    for _ in range(2):
        survey_shards(tmp_path / "x")
    assert len(opened) == 6


@pytest.mark.parametrize("suffix", ["", ".index", ".metadata"])
def test_a_shard_of_which_one_file_is_too_new_is_read_again(suffix, folder, opened, monkeypatch):
    monkeypatch.setattr(shard_survey, "_NUM_REREAD", 0)
    file = folder / f"00003_unshuffled.ds{suffix}"
    os.utime(file, (file.stat().st_mtime + 2000,) * 2)
    survey_shards(folder)
    opened.clear()
    survey_shards(folder)
    assert opened == ["00003_unshuffled.ds"]


def test_a_record_of_another_format_is_not_read(folder, opened):
    survey_shards(folder)
    record = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps({**record, "format": record["format"] + 1}))
    opened.clear()
    survey_shards(folder)
    assert len(opened) == 40


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 1, "names": ["a"], "facts": [[1]]}', '{"format": 2}'])
def test_a_record_that_is_none_is_ignored(content, folder):
    first = fingerprint(folder)
    (folder / RECORD_NAME).write_text(content)
    assert fingerprint(folder) == first


def test_a_folder_that_cannot_be_written_is_surveyed_in_full(folder, opened, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shard_survey, "write_whole", refuse)
    for _ in range(2):
        open_mixture(make_config([{"dataset": {"dataset_folder": str(folder)}}]))
    assert len(opened) == 80
    assert not (folder / RECORD_NAME).exists()


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path):
    with pytest.raises(MissingInputError, match="no such folder"):
        survey_shards(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"holds no \.ds file"):
        survey_shards(tmp_path)


def test_a_file_that_vanishes_while_others_are_looked_at_hides_none(folder):
    (folder / ".record-of-another-rank").symlink_to("nowhere")
    assert len(survey_shards(folder).shards) == 40
    (folder / "00040_unshuffled.ds").symlink_to("nowhere")
    with pytest.raises(InputError, match="00040_unshuffled"):
        survey_shards(folder)
