"""How often a source may be passed over: by the run's limit, by a group's own, counted over all stages."""

import pytest

from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.errors import InputError
from tests.unit.data_fixtures import make_config, write_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source of 17 windows; a run of the fixtures draws 80."""
    return str(write_source(tmp_path_factory.mktemp("shards") / "a", [10, 0, 7]))


def test_a_source_repeated_beyond_the_limit_is_refused(folder):
    stages = [{"dataset": {"dataset_folder": folder}}]
    with pytest.raises(InputError, match=r"4\.71 times.*limit of 4"):
        open_mixture(make_config(stages, zagreus={"max_source_epochs": 4}))
    open_mixture(make_config(stages, zagreus={"max_source_epochs": 5}))


def test_a_source_at_exactly_the_limit_is_taken(folder):
    stages = [{"dataset": {"dataset_folder": folder}}]
    open_mixture(make_config(stages, tokens={"train_steps": 17}, zagreus={"max_source_epochs": 4}))  # 68 of 17
    with pytest.raises(InputError, match="limit of 4"):
        open_mixture(make_config(stages, tokens={"train_steps": 18}, zagreus={"max_source_epochs": 4}))


def test_a_group_has_its_own_limit(folder):
    def open_with(max_epochs):
        group = {"dataset_folder": folder, "tokens": 1, "max_epochs": max_epochs}
        stages = [{"dataset": {"dataset_groups": {"only": group}}}]
        return open_mixture(make_config(stages, zagreus={"max_source_epochs": 4}))

    open_with(5)
    with pytest.raises(InputError, match=r"limit of 3; .*raise max_epochs of its group"):
        open_with(3)


def test_a_stage_s_group_is_held_to_its_own_limit(folder):
    """Whatever the group of a later stage allows for the same folder."""

    def open_with(*limits):
        groups = [{"only": {"dataset_folder": folder, "tokens": 1, "max_epochs": limit}} for limit in limits]
        starts = zip((1, 11), groups, strict=True)
        return open_mixture(make_config([{"start": start, "dataset": {"dataset_groups": g}} for start, g in starts]))

    open_with(3, 5)
    with pytest.raises(InputError, match=r"stage 'stage 0'.*limit of 1"):
        open_with(1, 5)
    with pytest.raises(InputError, match=r"stage 'stage 1'.*limit of 4"):
        open_with(5, 4)


def test_repetition_counts_all_stages(folder):
    stages = [{"dataset": {"dataset_folder": folder}}, {"start": 11, "dataset": {"dataset_folder": folder}}]
    with pytest.raises(InputError, match=r"stage 'stage 1'"):
        open_mixture(make_config(stages, zagreus={"max_source_epochs": 4}))
