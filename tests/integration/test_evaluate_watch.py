"""Following a training: what is evaluated when, what is refused at once, and what must not stop the watcher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluation_fixtures import progression_rows, write_data, write_tiny_model

pytest.importorskip("lm_eval")

from nanotron_zagreus.checkpoints.outcome import Outcome, Why, write_outcome
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.evaluation import task_set, watching

pytestmark = pytest.mark.integration

MakeWatcher = Callable[..., int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local copies of the progression suite's data sets."""
    return write_data(tmp_path_factory.mktemp("data"), progression_rows(2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, called 1000 and 2000, and their models."""
    from nanotron_zagreus.conversion.from_hf import import_folder

    folder = tmp_path_factory.mktemp("saved")
    for seed, step in enumerate((1000, 2000)):
        write_tiny_model(folder / "models" / str(step), seed=seed, context=512)
        import_folder(folder / "models" / str(step), folder / str(step))
    return folder


@pytest.fixture
def watch(data: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWatcher:
    """A function that runs the command on `checkpoints/`, where each nap saves one checkpoint, then ends the run."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()

    def watch(*options: object, seconds: list[float] | None = None) -> int:
        def train_meanwhile(nap: float) -> None:
            naps.append(nap)
            if len(naps) <= 2:
                shutil.copytree(saved / f"{len(naps)}000", checkpoints / f"{len(naps)}000")
            else:
                write_outcome(checkpoints, Outcome(why="finished", step=2000, checkpoint=None))

        naps = [] if seconds is None else seconds
        monkeypatch.setattr(watching.time, "sleep", train_meanwhile)
        command = ["progress", tmp_path / "out", "--watch", checkpoints, "--data", data, "--limit", "1", "--suite"]
        command += ["progression-por", "--tokenizer", saved / "models" / "1000", "--interval", "5", "--format", "csv"]
        return run([str(word) for word in [*command, *options]])

    return watch


def rows_of(csv_tables: str) -> list[list[str]]:
    """Return the models of every table printed."""
    return [[line.split(",")[0] for line in table.splitlines()[1:]] for table in csv_tables.split("model,")[1:]]


def test_watch_evaluates_checkpoints_as_they_appear_until_the_training_ends(
    watch: MakeWatcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    naps: list[float] = []
    assert watch(seconds=naps) == 0
    assert rows_of(capsys.readouterr().out) == [["1000"], ["1000", "2000"]]
    assert naps == [5.0, 5.0, 5.0]
    assert run(["progress", str(tmp_path), "--watch", str(tmp_path / "none"), "--suite", "progression-por"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "progression-pt"], "did you mean 'progression-por'"),
        (["--data", "{tmp}/none"], "--data"),
        (["--data", "{tmp}/checkpoints"], "no copy of alexandrainst/m_arc"),
        (["--tokenizer", "{tmp}/none"], "none"),
        (["--limit", "-1"], "--limit -1"),
        (["--interval", "0"], "--interval"),
        (["--give-up-after", "nan"], "--give-up-after"),
    ],
)
def test_what_cannot_work_is_refused_before_a_checkpoint_is_there(
    watch: MakeWatcher, tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    naps: list[float] = []
    assert watch(*(option.format(tmp=tmp_path) for option in options), seconds=naps) == 2
    assert words in capsys.readouterr().err and naps == []


def test_tasks_are_loaded_once_and_converted_copies_do_not_pile_up(
    watch: MakeWatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    load = task_set.load_tasks
    monkeypatch.setattr(task_set, "load_tasks", lambda *arguments: calls.append(1) or load(*arguments))
    assert watch() == 0
    assert calls == [1]
    assert list((tmp_path / "out").glob(".converted/*")) == []
    assert len(list((tmp_path / "out").glob("2000/results_*.json"))) == 3


def test_converted_copies_are_kept_when_asked_for(watch: MakeWatcher, tmp_path: Path) -> None:
    assert watch("--keep-converted") == 0
    assert {path.name for path in (tmp_path / "out" / ".converted").iterdir()} == {"1000", "2000"}


@pytest.mark.parametrize("moment", ["before it is read", "before it is converted"])
def test_a_checkpoint_deleted_meanwhile_is_skipped(
    watch: MakeWatcher,
    tmp_path: Path,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nanotron_zagreus.evaluation import runner

    first = tmp_path / "checkpoints" / "1000"
    if moment == "before it is read":
        look = watching._complete
        monkeypatch.setattr(watching, "_complete", lambda folder: (look(folder), shutil.rmtree(first, True))[0])
    else:
        convert = runner.hf_folder
        monkeypatch.setattr(runner, "hf_folder", lambda *rest: (shutil.rmtree(first, True), convert(*rest))[1])
    assert watch() == 0
    captured = capsys.readouterr()
    assert f"{first}: deleted before it was evaluated" in captured.err and "failed" not in captured.err
    assert rows_of(captured.out)[-1] == ["2000"]


def test_a_checkpoint_that_cannot_be_evaluated_does_not_end_the_watch(
    watch: MakeWatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look = watching._complete

    def damaged(folder: Path) -> list[Path]:
        found = look(folder)
        for path in found:
            if path.name == "1000":
                (path / "model_config.json").write_text("{")
        return found

    monkeypatch.setattr(watching, "_complete", damaged)
    assert watch() == 1
    error = capsys.readouterr().err
    assert "1000" in error and "model_config.json" in error
    assert len(list((tmp_path / "out").glob("2000/results_*.json"))) == 3


@pytest.mark.parametrize("why", ["running", "stopped", None])
def test_a_training_without_a_sign_of_life_ends_the_watch_with_what_was_evaluated_kept(
    saved: Path, data: Path, tmp_path: Path, why: Why | None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Steps, checkpoints and outcomes are signs; here the last step comes with the second nap."""
    checkpoints, naps = tmp_path / "checkpoints", list[float]()
    shutil.copytree(saved / "1000", checkpoints / "1000")
    if why is not None:
        write_outcome(checkpoints, Outcome(why=why, step=1234, checkpoint=None))

    def train_meanwhile(nap: float) -> None:
        naps.append(nap)
        assert len(naps) < 9, "the watch goes on for ever"
        if len(naps) <= 2:
            with (checkpoints / "metrics.jsonl").open("a") as file:
                file.write("{}\n")

    monkeypatch.setattr(watching.time, "sleep", train_meanwhile)
    command = ["progress", tmp_path / "out", "--watch", checkpoints, "--data", data, "--limit", "1", "--suite"]
    command += ["progression-por", "--tokenizer", saved / "models" / "1000"]
    assert run([str(word) for word in [*command, "--interval", "900", "--give-up-after", "0.5"]]) == 1
    assert naps == [900.0] * 4
    error = capsys.readouterr().err
    assert f"{checkpoints}: no new step, checkpoint or outcome for 0.5 hours" in error
    assert (f"{why} at step 1234" if why else "no outcome.json") in error
    assert len(list((tmp_path / "out").glob("1000/results_*.json"))) == 3
