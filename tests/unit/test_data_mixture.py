"""The mixture's contract: which samples make up a step, over epochs, stages and resumes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nanotron_zagreus.data.mixture import HELD_OUT, SampleId, open_mixture
from nanotron_zagreus.errors import InputError, MissingInputError, WorkError
from tests.unit.data_fixtures import make_config, samples_of, write_shard, write_source, write_three_sources


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_three_sources(tmp_path_factory.mktemp("shards"))


def windows_of(samples, source):
    return [(sample.shard, sample.window) for sample in samples if sample.source == source]


def test_each_window_comes_once_per_epoch_in_another_order(folders):
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": folders["a"]}}]))
    drawn = windows_of(samples_of(mixture, range(1, 21)), 0)[: 17 * 4]
    epochs = [drawn[first : first + 17] for first in range(0, 68, 17)]
    every = [(0, window) for window in range(10)] + [(2, window) for window in range(7)]
    assert all(sorted(epoch) == every for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_epochs_are_counted_from_zero(folders):
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": folders["a"]}}]))
    epochs = [sample.epoch for sample in samples_of(mixture, range(1, 21))]
    assert epochs == [number // 17 for number in range(80)]


def test_declared_weights_are_followed_exactly(folders):
    dataset = {"dataset_folder": [folders["a"], folders["b"], folders["c"]], "dataset_weights": [0.4, 0.4, 0.2]}
    mixture = open_mixture(make_config([{"dataset": dataset}], tokens={"train_steps": 50}))
    counts = Counter(sample.source for sample in samples_of(mixture, range(1, 51)))
    assert counts == {0: 80, 1: 80, 2: 40}


def test_pinned_samples_do_not_change_between_versions(folders):
    """A run resumed by a later version must go on with the samples it would have had."""
    dataset = {"dataset_folder": [folders["a"], folders["b"], folders["c"]], "dataset_weights": [0.4, 0.4, 0.2]}
    ids = open_mixture(make_config([{"dataset": dataset}])).samples_of_step(15)
    assert ids == [(0, 1, 0, 0, 14), (0, 2, 0, 0, 2), (0, 1, 0, 1, 9), (0, 0, 1, 0, 4)]


def test_loading_workers_change_nothing(folders):
    def samples(num_workers):
        config = make_config([{"dataset": {"dataset_folder": folders["b"]}}])
        stage = config.data_stages[0]
        data = replace(stage.data, num_loading_workers=num_workers)
        return open_mixture(replace(config, data_stages=(replace(stage, data=data),))).samples_of_step(7)

    assert samples(0) == samples(5)


def test_without_weights_the_windows_decide(folders):
    dataset = {"dataset_folder": [folders["a"], folders["b"]]}
    mixture = open_mixture(make_config([{"dataset": dataset}], tokens={"micro_batch_size": 5, "train_steps": 10}))
    counts = Counter(sample.source for sample in samples_of(mixture, range(1, 11)))
    assert counts == {0: 17, 1: 33}


def test_groups_divide_their_tokens_by_size(folders):
    groups = {
        "english": {"dataset_folder": [folders["a"], folders["b"]], "tokens": 400},
        "code": {"dataset_folder": folders["c"], "tokens": 100},
    }
    mixture = open_mixture(make_config([{"dataset": {"dataset_groups": groups}}], tokens={"train_steps": 125}))
    counts = Counter(str(mixture.sources[sample.source].folder) for sample in samples_of(mixture, range(1, 126)))
    assert counts == {folders["a"]: 136, folders["b"]: 264, folders["c"]: 100}


def test_the_order_of_a_mapping_means_nothing(folders):
    """A checkpoint's config.yaml is written with sorted keys; reading it back must give the same samples."""
    forward = {folders["a"]: 1.0, folders["b"]: 2.0, folders["c"]: 2.0}
    backward = dict(reversed(forward.items()))
    one, two = (open_mixture(make_config([{"dataset": {"dataset_folder": d}}])) for d in (forward, backward))
    assert one.samples_of_step(3) == two.samples_of_step(3)
    assert one.sources[0].folder == two.sources[0].folder


def test_a_stage_continues_sources_where_the_stage_before_left_them(folders):
    two = [folders["a"], folders["b"]]
    stages = [
        {"dataset": {"dataset_folder": two, "dataset_weights": [1, 3]}},
        {"start": 6, "seed": 99, "dataset": {"dataset_folder": [folders["c"], folders["a"]]}},
    ]
    mixture = open_mixture(make_config(stages))
    drawn = windows_of(samples_of(mixture, range(1, 21)), 0)
    assert len(drawn) > 17
    assert len(set(drawn[:17])) == 17


def test_changing_a_later_stage_changes_nothing_before_it(folders):
    two = [folders["a"], folders["b"]]

    def samples(later):
        first = {"dataset": {"dataset_folder": two, "dataset_weights": [1, 3]}}
        return samples_of(open_mixture(make_config([first, {"start": 8, "dataset": later}])), range(1, 8))

    assert samples({"dataset_folder": two, "dataset_weights": [3, 1]}) == samples({"dataset_folder": folders["c"]})


def test_the_seed_chooses_another_order(folders):
    def samples(seed):
        stage = {"dataset": {"dataset_folder": folders["b"]}, "seed": seed}
        return samples_of(open_mixture(make_config([stage])), range(1, 5))

    assert samples(1) != samples(2)
    assert samples(1) == samples(1)


def test_tokens_are_those_of_the_window(folders):
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": folders["a"]}}]))
    ids = mixture.samples_of_step(3)
    tokens = mixture.read(ids)
    assert tokens.shape == (4, 9) and tokens.dtype == np.uint16
    for row, sample in zip(tokens, ids, strict=True):
        first = sample.shard * 100 + sample.window * 9
        assert row.tolist() == list(range(first, first + 9))


def test_held_out_windows_are_never_trained_on(folders):
    dataset = {"dataset_folder": [folders["a"], folders["b"]]}
    mixture = open_mixture(make_config([{"dataset": dataset}], zagreus={"validation_windows_per_source": 2}))
    held_out = mixture.held_out()
    assert [(sample.source, sample.shard, sample.window) for sample in held_out] == [
        (0, 2, 5), (1, 1, 11), (0, 2, 6), (1, 1, 12)
    ]  # fmt: skip
    assert {(sample.stage, sample.epoch) for sample in held_out} == {(HELD_OUT, HELD_OUT)}
    trained = {(sample.source, sample.shard, sample.window) for sample in samples_of(mixture, range(1, 21))}
    assert not trained & {(sample.source, sample.shard, sample.window) for sample in held_out}
    assert mixture.read(held_out)[0].tolist() == list(range(245, 254))


def test_a_missing_folder_is_named_with_its_field(folders, tmp_path):
    with pytest.raises(MissingInputError, match=r"data_stages\[0\]\.data\.dataset.*nowhere"):
        open_mixture(make_config([{"dataset": {"dataset_folder": str(tmp_path / "nowhere")}}]))


def test_another_tokenizer_is_refused_unless_its_name_is_accepted(folders):
    dataset = {"dataset_folder": folders["a"]}
    other = {"tokenizer_name_or_path": "org/other"}
    with pytest.raises(InputError, match=r"test-tokenizer.*org/other"):
        open_mixture(make_config([{"dataset": dataset}], tokenizer=other))
    named = {**dataset, "tokenizer_names": ["test-tokenizer"]}
    open_mixture(make_config([{"dataset": named}], tokenizer=other))


def test_sources_of_two_token_sizes_are_refused(folders, tmp_path):
    wide = write_source(tmp_path / "wide", [10], token_size=4)
    with pytest.raises(InputError, match="4 bytes a token"):
        open_mixture(make_config([{"dataset": {"dataset_folder": [folders["a"], str(wide)]}}]))


@pytest.mark.parametrize("checked_bytes", [1, 18 * 3, 1 << 20], ids=["row by row", "in two pieces", "at once"])
def test_a_token_outside_the_vocabulary_is_named_when_it_is_read(tmp_path, monkeypatch, checked_bytes):
    monkeypatch.setattr("nanotron_zagreus.data.mixture._CHECKED_BYTES", checked_bytes)
    path = write_shard(tmp_path, 0, 40_000)
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": str(tmp_path)}}]))
    with path.open("r+b") as file:
        file.seek(300 * 18)  # window 300, between the blocks that are looked at when the source is opened
        file.write(b"\xff\xff")
    with pytest.raises(WorkError, match=r"00000_unshuffled\.ds.*token 65535 in window 300"):
        mixture.read([SampleId(0, 0, 0, 0, window) for window in (290, 7, 299, 300, 5)])


def test_one_folder_under_two_names_is_refused_with_both(tmp_path):
    """Counted as two, it would be passed over twice as often as the limit allows."""
    write_source(tmp_path / "x", [10])
    (tmp_path / "y").symlink_to(tmp_path / "x", target_is_directory=True)
    two = [str(tmp_path / "x"), str(tmp_path / "y")]
    groups = {name: {"dataset_folder": folder, "tokens": 100} for name, folder in zip("ab", two, strict=True)}
    for dataset in ({"dataset_folder": two}, {"dataset_groups": groups}):
        with pytest.raises(InputError, match=f"{two[0]} and {two[1]} are one folder"):
            open_mixture(make_config([{"dataset": dataset}]))
    stages = [{"dataset": {"dataset_folder": two[0]}}, {"start": 9, "dataset": {"dataset_folder": two[1]}}]
    assert len(open_mixture(make_config(stages)).sources) == 1


def test_a_step_outside_the_run_is_refused(folders):
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": folders["a"]}}]))
    with pytest.raises(InputError, match="1 to 20"):
        mixture.samples_of_step(21)
