"""What a checkpoint records of the data, and what a resumed run accepts of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.errors import InputError
from tests.unit.data_fixtures import make_config, samples_of, write_shard, write_source, write_three_sources


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_three_sources(tmp_path_factory.mktemp("shards"))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_resumed_run_draws_what_the_uninterrupted_one_would(folders, data):
    names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
    stages = []
    for start in (1, 7, 12):
        chosen = data.draw(names)
        weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(chosen), max_size=len(chosen)))
        stages.append(
            {"start": start, "dataset": {"dataset_folder": [folders[n] for n in chosen], "dataset_weights": weights}}
        )
    config = make_config(stages)
    whole = open_mixture(config)
    step = data.draw(st.integers(0, 20))
    state = json.loads(json.dumps(whole.state(step), sort_keys=True))
    resumed = open_mixture(config, progress=state)
    assert samples_of(resumed, range(1, 21)) == samples_of(whole, range(1, 21))
    assert resumed.state(20) == whole.state(20)
    assert state["samples"] == step * 4


def test_the_state_counts_samples_per_stage_and_source(folders):
    stages = [
        {"name": "one", "dataset": {"dataset_folder": [folders["a"], folders["b"]], "dataset_weights": [1, 3]}},
        {"name": "two", "start": 5, "dataset": {"dataset_folder": folders["c"]}},
    ]
    state = open_mixture(make_config(stages)).state(6)
    assert [(stage["name"], stage["samples"], stage["samples_per_source"]) for stage in state["stages"]] == [
        ("one", 16, [4, 12]),
        ("two", 8, [8]),
    ]
    assert state["samples"] == 24


def resume(config_before, config_after, step=6):
    return open_mixture(config_after, progress=open_mixture(config_before).state(step))


def test_a_changed_batch_is_refused_unless_accepted(folders, caplog):
    stages = [
        {"dataset": {"dataset_folder": [folders["a"], folders["b"]]}},
        {"start": 9, "dataset": {"dataset_folder": folders["c"]}},
    ]
    small, large = {"micro_batch_size": 4}, {"micro_batch_size": 6}
    with pytest.raises(InputError, match=r"1 x 6 x 1 = 6 samples.*with 4"):
        resume(make_config(stages, tokens=small), make_config(stages, tokens=large))
    accepted = make_config(stages, tokens=large, zagreus={"accept_changed_batch": True})
    before = open_mixture(make_config(stages, tokens=small))
    after = resume(make_config(stages, tokens=small), accepted)
    assert "with 6 samples a step, was 4" in caplog.text
    assert samples_of(after, range(1, 7)) == samples_of(before, range(1, 7))
    one_stage = make_config(stages[:1], tokens={**small, "train_steps": 20})
    straight = samples_of(open_mixture(one_stage), range(1, 21))
    assert samples_of(after, range(1, 9)) == straight[: 6 * 4 + 2 * 6]
    assert [leg for stage in after.state(10)["stages"] for leg in stage["legs"]] == [[1, 0, 4], [7, 24, 6], [9, 0, 6]]
    assert after.state(6)["stages"] == before.state(6)["stages"], "no step of the new batch was trained yet"
    again = open_mixture(accepted, progress=after.state(10))
    assert samples_of(again, range(1, 21)) == samples_of(after, range(1, 21))


def test_a_stage_in_the_past_cannot_be_edited(folders):
    def stages(start, folder="b"):
        first = {"dataset": {"dataset_folder": folders["a"]}}
        return make_config([first, {"start": start, "dataset": {"dataset_folder": folders[folder]}}])

    with pytest.raises(InputError, match=r"data_stages\[1\]\.start_training_step: got 4"):
        resume(stages(5), stages(4), step=6)
    for start in (4, 6):
        with pytest.raises(InputError, match="step 7 or later"):
            resume(stages(9), stages(start), step=6)
    resume(stages(9), stages(7, "c"), step=6)
    with pytest.raises(InputError, match="stages"):
        resume(stages(5), make_config([{"dataset": {"dataset_folder": folders["a"]}}]), step=6)


def test_changed_data_is_refused_with_the_list_of_changes(tmp_path, caplog):
    write_source(tmp_path / "x", [10, 10])
    config = make_config([{"dataset": {"dataset_folder": str(tmp_path / "x")}}])
    state = open_mixture(config).state(3)
    write_shard(tmp_path / "x", 1, 93, first_token=500)
    write_shard(tmp_path / "x", 2, 93)
    with pytest.raises(
        InputError, match=r"00002_unshuffled.ds is new.*00001_unshuffled.ds has other content"
    ) as caught:
        open_mixture(config, progress=state)
    assert "00000_unshuffled.ds" not in str(caught.value) and "more" not in str(caught.value)
    for rank in range(3, 15):
        write_shard(tmp_path / "x", rank, 93)
    with pytest.raises(InputError, match=r"00013_unshuffled.ds is new; and 2 more\. Restore it"):
        open_mixture(config, progress=state)
    accepting = make_config(
        [{"dataset": {"dataset_folder": str(tmp_path / "x")}}],
        zagreus={"accept_changed_data": True, "max_source_epochs": 1000},
    )
    assert open_mixture(accepting, progress=state).samples_of_step(4)
    assert "resuming with changed data" in caplog.text and "00013_unshuffled.ds is new" in caplog.text


def test_a_change_is_told_once_however_many_stages_draw_from_it(tmp_path):
    dataset = {"dataset_folder": str(write_source(tmp_path / "x", [10]))}
    config = make_config([{"dataset": dataset}, {"start": 3, "dataset": dataset}])
    state = open_mixture(config).state(6)
    write_shard(tmp_path / "x", 1, 93)
    with pytest.raises(InputError) as caught:
        open_mixture(config, progress=state)
    assert str(caught.value).count("00001_unshuffled.ds is new") == 1


def test_a_source_that_becomes_two_or_one_of_two_is_a_change(tmp_path):
    """Its later stages would not go on where its earlier ones left it, though every shard is the same."""
    one, copied = (str(write_source(tmp_path / name, [10, 10])) for name in ("one", "copied"))

    def config(second):
        return make_config([{"dataset": {"dataset_folder": one}}, {"start": 5, "dataset": {"dataset_folder": second}}])

    with pytest.raises(InputError, match=f"{one} and {copied} were one source, {one}"):
        resume(config(one), config(copied))
    with pytest.raises(InputError, match=f"{one} was two sources, {one} and {copied}"):
        resume(config(copied), config(one))


def test_a_record_of_another_format_is_refused(folders):
    config = make_config([{"dataset": {"dataset_folder": folders["a"]}}])
    state = open_mixture(config).state(3)
    with pytest.raises(InputError, match=r"format 2, this version reads 1"):
        open_mixture(config, progress={**state, "format": 2})


def test_swapped_shards_are_noticed(tmp_path):
    write_source(tmp_path / "x", [10, 10])
    config = make_config([{"dataset": {"dataset_folder": str(tmp_path / "x")}}])
    state = open_mixture(config).state(3)
    one, two = (tmp_path / "x" / f"0000{rank}_unshuffled.ds" for rank in (0, 1))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(InputError, match="other content"):
        open_mixture(config, progress=state)


def test_changed_weights_seed_and_length_are_refused(folders):
    def config(weights=(1, 3), seed=8, length=8):
        dataset = {"dataset_folder": [folders["a"], folders["b"]], "dataset_weights": list(weights)}
        return make_config([{"dataset": dataset, "seed": seed}], tokens={"sequence_length": length})

    for changed, word in ((config(weights=(3, 1)), "weights"), (config(seed=9), "seed"), (config(length=5), "length")):
        with pytest.raises(InputError, match=word):
            resume(config(), changed)


def test_new_weights_are_never_ignored_when_changed_data_is_accepted(folders):
    """A begun stage keeps its shares, so accepting them would log a change that does not happen."""

    def config(weights):
        dataset = {"dataset_folder": [folders["a"], folders["b"]], "dataset_weights": weights}
        return make_config([{"dataset": dataset}], zagreus={"accept_changed_data": True, "max_source_epochs": 1000})

    for other in ([3, 1], None):
        with pytest.raises(InputError, match=r"weights of stage 'stage 0'.*trained with, 1:3, .*step 7"):
            resume(config([1, 3]), config(other))


def test_new_weights_are_refused_beside_changed_data_that_is_accepted(tmp_path):
    folders = [str(write_source(tmp_path / name, [10])) for name in "xy"]

    def config(weights):
        dataset = {"dataset_folder": folders, "dataset_weights": weights}
        return make_config([{"dataset": dataset}], zagreus={"accept_changed_data": True, "max_source_epochs": 1000})

    state = open_mixture(config([1, 3])).state(6)
    write_source(tmp_path / "y", [10, 20])
    open_mixture(config([1, 3]), progress=state)
    with pytest.raises(InputError, match=r"weights of stage 'stage 0'"):
        open_mixture(config([3, 1]), progress=state)


def test_shares_by_size_stay_as_they_were_when_changed_data_is_accepted(tmp_path, caplog):
    write_source(tmp_path / "x", [10])
    write_source(tmp_path / "y", [10])
    folders = [str(tmp_path / "x"), str(tmp_path / "y")]
    accepting = make_config(
        [{"dataset": {"dataset_folder": folders}}], zagreus={"accept_changed_data": True, "max_source_epochs": 1000}
    )
    before = open_mixture(accepting)
    write_source(tmp_path / "y", [10, 20])
    after = open_mixture(accepting, progress=before.state(6))
    assert after.stages[0].interleave.shares == before.stages[0].interleave.shares
    assert "keeps the shares 1:1" in caplog.text
    caplog.clear()
    strict = make_config([{"dataset": {"dataset_folder": folders}}], zagreus={"max_source_epochs": 1000})
    for config in (accepting, strict):  # what was accepted once is the checkpoint's data from then on
        again = open_mixture(config, progress=after.state(8))
        assert again.samples_of_step(9) == after.samples_of_step(9)
    assert not caplog.text

    def weighted(*weights):
        dataset = {"dataset_folder": folders, "dataset_weights": list(weights)}
        return make_config([{"dataset": dataset}], zagreus={"max_source_epochs": 1000})

    older = after.state(8)
    by_sizes = older["stages"][0].pop("configured_shares")
    with pytest.raises(InputError, match="trained with, 1:1, "):
        open_mixture(strict, progress=older)
    for state in (after.state(8), older):
        open_mixture(weighted(1, 1), progress=state)
        for others in ((1, 2), by_sizes):
            with pytest.raises(InputError, match="weights of stage 'stage 0'"):
                open_mixture(weighted(*others), progress=state)


def test_moved_folders_are_the_same_data(folders, tmp_path):
    state = open_mixture(make_config([{"dataset": {"dataset_folder": folders["a"]}}])).state(4)
    moved = write_source(tmp_path / "elsewhere", [10, 0, 7])
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": str(moved)}}]), progress=state)
    assert mixture.state(4)["samples"] == 16


def test_a_checkpoint_records_the_tokenizer_s_file_where_it_is_known(folders, tmp_path):
    known = write_source(tmp_path / "known", [10])
    (known / "tokenization.json").write_text(json.dumps({"tokenizer": "test-tokenizer", "tokenizer_sha256": "12ab"}))
    mixture = open_mixture(make_config([{"dataset": {"dataset_folder": [folders["a"], str(known)]}}]))
    sources = mixture.state(1)["sources"]
    assert [source["tokenizer_sha256"] for source in sources.values()] == [None, "12ab"]
