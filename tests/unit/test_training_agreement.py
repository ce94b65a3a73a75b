"""What the ranks of a launch agree on before anything is allocated; each rank is a thread here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nanotron_zagreus.checkpoints import layout, manifest
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, VerificationError
from nanotron_zagreus.training import agreement, resume_choice
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.data_fixtures import make_config, write_source

FIELD = "checkpoints.checkpoints_path_is_shared_file_system"
PUBLISHED = Path(__file__).parents[2] / "configs" / "smollm2" / "zagreus_350M_por.yaml"


@dataclass
class Launch:
    """Ranks, each with the number of its node; every node has one rank or more."""

    nodes: Sequence[int]

    def __post_init__(self) -> None:
        self._barrier = threading.Barrier(len(self.nodes), timeout=20)
        self._values: list[Any] = [None] * len(self.nodes)
        self._here = threading.local()

    def rank(self) -> int:
        return int(self._here.rank)

    def node(self) -> int:
        return self.nodes[self.rank()]

    def place_on_node(self) -> tuple[int, int]:
        return self.nodes[: self.rank()].count(self.node()), self.nodes.count(self.node())

    def exchange(self, value: Any) -> list[Any]:
        self._values[self.rank()] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found

    def run(self, action: Callable[[int], Any]) -> list[Any]:
        """Return what each rank returned or raised."""

        def one(rank: int) -> Any:
            self._here.rank = rank
            try:
                return action(rank)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(self.nodes)) as pool:
            return list(pool.map(one, range(len(self.nodes))))


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], Launch]:
    """Return a function that makes a launch of which this process's threads are the ranks."""

    def make(nodes: Sequence[int]) -> Launch:
        made = Launch(nodes)
        for name in ("exchange", "node", "place_on_node", "rank"):
            for module in (agreement, resume_choice):
                monkeypatch.setattr(module, name, getattr(made, name), raising=False)
        monkeypatch.setattr(agreement, "_LOOK_SECONDS", 0.0)
        return made

    return make


def saving_in(folder: Path, *, shared: bool) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(PUBLISHED)
    section = replace(config.checkpoints, checkpoints_path=folder, checkpoints_path_is_shared_file_system=shared)
    return replace(config, checkpoints=section)


@pytest.mark.parametrize("promised", [True, False])
def test_nodes_that_see_one_folder_share_it_whatever_was_promised(
    promised: bool, launch: Callable[..., Launch], tmp_path: Path
) -> None:
    config = saving_in(tmp_path, shared=promised)
    agreed = launch([0, 0, 1, 1]).run(lambda rank: agreement.agree_on_sharing(config))
    assert [found.checkpoints.checkpoints_path_is_shared_file_system for found in agreed] == [True] * 4
    assert not list(tmp_path.iterdir())


def test_nodes_with_folders_of_their_own_keep_them(launch: Callable[..., Launch], tmp_path: Path) -> None:
    configs = [saving_in(tmp_path / str(node), shared=False) for node in (0, 0, 1, 2)]
    assert launch([0, 0, 1, 2]).run(lambda rank: agreement.agree_on_sharing(configs[rank])) == configs


def test_a_promise_that_does_not_hold_is_refused_on_every_rank(launch: Callable[..., Launch], tmp_path: Path) -> None:
    found = launch([0, 1]).run(lambda rank: agreement.agree_on_sharing(saving_in(tmp_path / str(rank), shared=True)))
    assert all(isinstance(error, InputError) and error.agreed for error in found)
    assert all(str(error).startswith(f"{FIELD}: got true") and f"{FIELD}: false" in str(error) for error in found)


@pytest.mark.parametrize("promised", [True, False])
def test_a_folder_that_only_some_nodes_share_is_refused(
    promised: bool, launch: Callable[..., Launch], tmp_path: Path
) -> None:
    folders = ("ours", "ours", "alone")
    found = launch([0, 1, 2]).run(
        lambda rank: agreement.agree_on_sharing(saving_in(tmp_path / folders[rank], shared=promised))
    )
    assert all(isinstance(error, InputError) for error in found)
    assert all("node 0 sees the files of nodes [0, 1] of [0, 1, 2] only" in str(error) for error in found)


def test_one_ranks_refusal_is_raised_on_all_and_names_the_rank(launch: Callable[..., Launch]) -> None:
    refusals = [None, InputError("data_stages[0]: no such folder"), None]
    found = launch([0, 1, 2]).run(lambda rank: agreement.raise_together(refusals[rank]))
    assert all(isinstance(error, InputError) and error.agreed for error in found)
    assert all(str(error).startswith("rank 1 on ") and "no such folder" in str(error) for error in found)


def test_a_refusal_that_all_ranks_share_is_said_once(launch: Callable[..., Launch]) -> None:
    found = launch([0, 0, 0]).run(lambda rank: agreement.raise_together(VerificationError("cut short")))
    assert [(type(error), str(error)) for error in found] == [(VerificationError, "cut short")] * 3


def test_ranks_that_have_nothing_to_refuse_go_on(launch: Callable[..., Launch]) -> None:
    assert launch([0, 1]).run(lambda rank: agreement.raise_together(None)) == [None, None]


@pytest.fixture
def nodes(tmp_path: Path) -> Callable[..., list[Config]]:
    """Return a function that writes each node's steps and returns the nodes' configurations, which go on from them."""
    dataset = {"dataset_folder": str(write_source(tmp_path / "data", [10, 10]))}

    def make(*steps_of_nodes: list[int]) -> list[Config]:
        configs = []
        for number, steps in enumerate(steps_of_nodes):
            paths = {"checkpoints_path": str(tmp_path / f"node{number}"), "resume_checkpoint_path": "auto"}
            keeping = {"checkpoints": {"fallback_to_newest_sound": True}}
            configs.append(make_config([{"dataset": dataset}], checkpoints=paths, zagreus=keeping))
            for step in steps:
                write_descriptions(configs[-1], step)
        return configs

    return make


def damage(config: Config, step: int) -> None:
    (layout.step_folder(config.checkpoints.checkpoints_path, step) / layout.MODEL_CONFIG_FILE).write_text("[]")


def chosen(made: Launch, configs: list[Config]) -> list[Any]:
    """Return each rank's step or refusal."""
    points = made.run(lambda rank: resume_choice.choose_resume_point(configs[made.nodes[rank]]))
    return [point if isinstance(point, Exception) else point.step for point in points]


def test_all_ranks_fall_back_to_the_newest_step_that_every_node_holds_sound(
    nodes: Callable[..., list[Config]],
    launch: Callable[..., Launch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = nodes([2, 4, 6, 8, 10], [1, 2, 4, 8, 10])
    damage(configs[1], 10)
    damage(configs[0], 8)
    assert chosen(launch([0, 0, 1]), configs) == [4, 4, 4]
    assert capsys.readouterr().err.count("going on from step 4") == 1


def test_without_a_step_that_all_hold_sound_no_rank_goes_on(
    nodes: Callable[..., list[Config]],
    launch: Callable[..., Launch],
) -> None:
    configs = nodes([2, 10], [4, 10])
    damage(configs[0], 10)
    for error in chosen(launch([0, 1]), configs):
        assert isinstance(error, VerificationError) and "No older step beside it is sound" in str(error)


@pytest.mark.parametrize(("steps", "found"), [([2], "step 2"), ([], "none")])
def test_nodes_that_hold_different_steps_are_told_which(
    steps: list[int], found: str, nodes: Callable[..., list[Config]], launch: Callable[..., Launch]
) -> None:
    for error in chosen(launch([0, 0, 1]), nodes([2, 4], steps)):
        assert isinstance(error, InputError) and error.agreed
        assert f"(step 4 on ranks 0, 1; {found} on rank 2)" in str(error)


def test_nodes_that_hold_one_step_of_two_runs_do_not_go_on(
    nodes: Callable[..., list[Config]], launch: Callable[..., Launch]
) -> None:
    configs = nodes([4], [])
    write_descriptions(replace(configs[1], tokens=replace(configs[1].tokens, micro_batch_size=2)), 4)
    for error in chosen(launch([0, 1]), configs):
        assert isinstance(error, InputError) and "different checkpoints" in str(error)


def test_one_ranks_refusal_of_a_sound_step_is_every_ranks(
    nodes: Callable[..., list[Config]],
    launch: Callable[..., Launch],
) -> None:
    configs = nodes([4], [4])
    configs[1] = replace(configs[1], tokens=replace(configs[1].tokens, train_steps=3))
    for error in chosen(launch([0, 1]), configs):
        assert isinstance(error, InputError) and error.agreed and "tokens.train_steps: got 3" in str(error)


def test_the_ranks_of_a_node_share_the_reading_and_a_file_that_cannot_be_read_is_damage(
    nodes: Callable[..., list[Config]],
    launch: Callable[..., Launch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (config,) = nodes([2, 4])
    parts: list[tuple[int, int]] = []

    def refuse(folder: Path, *, part: tuple[int, int]) -> None:
        parts.append(part)
        if folder.name == "4" and part[0] == 1:
            raise OSError(5, "Input/output error")

    verify = manifest.verify
    monkeypatch.setattr(
        manifest, "verify", lambda folder, **how: refuse(folder, **how) if "part" in how else verify(folder, **how)
    )
    assert chosen(launch([0, 0]), [config]) == [2, 2]
    assert sorted(parts) == [(0, 2), (0, 2), (1, 2), (1, 2)]
