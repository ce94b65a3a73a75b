"""What the job scripts do at every signal and end, with stand-ins for Slurm and for the long commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanotron_zagreus.checkpoints.manifest import records_of, write_manifest
from nanotron_zagreus.checkpoints.weights_digest import weights_digest
from tests.unit.conversion_fixtures import write_checkpoint
from tests.unit.slurm_script_stage import SIGNAL, Stage

REQUEUED = ["scontrol requeue 12"]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_training_with_modules_that_read_unset_variables_runs_to_its_end(stage: Stage) -> None:
    stage.trains(why="finished", step=9)
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == []
    assert not (stage.root / "STOP").exists()


@pytest.mark.parametrize("job", ["tokenize", "evaluate", "convert"])
def test_a_job_with_modules_that_read_unset_variables_runs_to_its_end(job: str, stage: Stage) -> None:
    (stage.root / "5").mkdir()
    stage.run(job, code=0)
    assert stage.calls(f"zagreus {job}")


@pytest.mark.parametrize("job", ["train", "tokenize", "evaluate", "convert"])
def test_a_site_without_a_cache_leaves_the_users_own(job: str, stage: Stage) -> None:
    """It was looked into before the submission."""
    (stage.root / "5").mkdir()
    stage.trains(why="finished", step=9)
    stage.also("zagreus", f"echo ${{HF_HOME:-none}} >{stage.folder}/home")
    stage.environment["HF_HOME"] = "/the/users"
    for cache, home in (("", "/the/users"), ("/the/sites", "/the/sites")):
        stage.run(job, code=0, HF_CACHE=cache)
        assert (stage.folder / "home").read_text() == f"{home}\n"


@pytest.mark.parametrize("job", ["train", "convert"])
def test_a_folder_has_the_same_name_for_the_script_as_for_the_command_whatever_the_locale(
    job: str, stage: Stage
) -> None:
    config, before = stage.folder / "run.yaml", str(stage.root)
    stage.root = stage.root.rename(stage.folder / "açúcar")
    config.write_text(config.read_text().replace(before, str(stage.root)), encoding="utf-8")
    (stage.root / "5").mkdir()
    stage.trains(why="finished", step=9)
    stage.environment.update({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    stage.run(job, code=0)


def test_a_time_limit_during_startup_is_not_lost(stage: Stage) -> None:
    """Slurm's signal comes up to a minute early: `zagreus check` may still be running."""
    stage.also("zagreus", SIGNAL.format(name="USR1"))
    stage.trains(waits=True, why="stopped", step=4)
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED
    assert not (stage.root / "STOP").exists(), "the next start would find it"


def test_a_time_limit_at_the_moment_of_the_launch_is_not_lost(stage: Stage) -> None:
    stage.trains(signal="USR1", waits=True, why="stopped", step=4)
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED


@pytest.mark.parametrize(
    ("outcome", "exit_code", "requeues"), [("finished", 0, []), ("stopped", 0, REQUEUED), ("failed", 1, [])]
)
def test_ranks_that_crash_after_the_outcome_change_nothing(
    outcome: str, exit_code: int, requeues: list[str], stage: Stage
) -> None:
    stage.trains(signal="USR1", waits=True, code=1, why=outcome, step=4)
    assert f"code 1, outcome: {outcome} at step 4" in stage.run("train", code=exit_code)
    assert stage.calls("scontrol requeue") == requeues


def test_a_run_that_fails_says_why_in_the_first_place_that_is_looked_at(stage: Stage) -> None:
    stage.trains(code=1, why="failed", step=4, reason="rank 3: out of memory")
    assert "failed: rank 3: out of memory; see logs/train-12/train.0.*.log" in stage.run("train", code=1)


def test_the_outcome_of_an_earlier_start_does_not_count(stage: Stage) -> None:
    (stage.root / "outcome.json").write_text(json.dumps({"why": "finished", "step": 4, "checkpoint": None}))
    stage.trains(code=1)
    assert "failed" in stage.run("train", code=1)
    stage.trains()
    assert "without a word" in stage.run("train", code=1)


def test_a_preemption_is_followed_by_a_requeue(stage: Stage) -> None:
    """Slurm tells the ranks alone; torchrun ends with 1."""
    stage.trains(code=1, why="stopped", step=4, reason="SIGTERM on rank 3")
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED


def test_a_preemption_that_ranks_could_not_hear_yet_is_followed_by_a_requeue(stage: Stage) -> None:
    stage.also("scontrol", '[ "$2" != job ] || echo "   PreemptEligibleTime=now PreemptTime=2026-01-01T00:00:00"')
    stage.trains(code=1)
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED
    stage.program("scontrol", 'echo "   PreemptTime=None"')
    stage.run("train", code=1)


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_cancelled_job_is_not_requeued(signal: str, stage: Stage) -> None:
    """Slurm would requeue it: it can requeue jobs that have ended."""
    stage.state.write_text("COMPLETING\n")
    stage.trains(signal=signal, waits=True, why="stopped", step=4)
    assert "COMPLETING" in stage.run("train", code=75)
    assert stage.calls("scontrol requeue") == []


def test_a_terminated_script_whose_job_still_runs_requeues_it(stage: Stage) -> None:
    stage.trains(signal="TERM", waits=True, why="stopped", step=4)
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED


def test_a_busy_slurm_is_asked_again(stage: Stage) -> None:
    stage.also("scontrol", f'[ "$1" != requeue ] || mkdir {stage.folder}/failed-once 2>/dev/null && exit 1\nexit 0')
    stage.trains(signal="USR1", waits=True, why="stopped", step=4)
    stage.run("train", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED * 2
    stage.program("scontrol", "exit 1")
    assert "Slurm did not requeue the job" in stage.run("train", code=75)


def test_time_limits_count_and_other_restarts_do_not(stage: Stage) -> None:
    """A node that fails and a preemption restart the job, too; MAX_REQUEUES is about time limits (here 2)."""
    for step in (4, 5, 6):
        stage.trains(code=1, why="stopped", step=step, reason="SIGTERM on rank 0")
        stage.run("train", code=0, start=step, MAX_REQUEUES="2")
    for step in (7, 8):
        stage.trains(signal="USR1", waits=True, why="stopped", step=step)
        stage.run("train", code=0, start=step, MAX_REQUEUES="2")
    stage.trains(signal="USR1", waits=True, why="stopped", step=9)
    assert "MAX_REQUEUES = 2 is used up" in stage.run("train", code=75, start=9, MAX_REQUEUES="2")


def test_a_start_without_progress_is_not_repeated_for_ever(stage: Stage) -> None:
    (stage.root / "latest.txt").write_text("4")
    stage.trains(signal="USR1", waits=True, why="stopped", step=4)
    assert "no step was finished since the last start" in stage.run("train", code=1)
    stage.trains(code=1, why="stopped", step=4, reason="SIGTERM on rank 0")
    stage.run("train", code=0, MAX_REQUEUES="1")
    assert "used up" in stage.run("train", code=75, MAX_REQUEUES="1")


def test_two_jobs_do_not_train_into_one_folder(stage: Stage) -> None:
    (stage.root / "slurm_job").write_text("11\n")
    stage.trains(why="finished", step=9)
    stage.environment["SQUEUE_STATES"] = "PENDING"  # of the user's shell; it would hide the job
    assert "job 11 trains into" in stage.run("train", code=2)
    assert stage.calls("srun") == []
    stage.state.write_text("")  # job 11 has ended
    stage.run("train", code=0)


def test_the_last_element_of_an_array_requeues_itself_alone(stage: Stage) -> None:
    """SLURM_JOB_ID of the last element is the id of the whole array."""
    done = "mkdir -p B/logs/completions; touch B/logs/completions/$RANDOM"
    stage.also("zagreus", f"{done}\n{SIGNAL.format(name='USR1')}\nexec /bin/sleep 60")
    stage.run("tokenize", code=0)
    assert stage.calls("scontrol requeue") == ["scontrol requeue 10_1"]
    assert "used up" in stage.run("tokenize", code=75, start=3)


def test_an_evaluation_out_of_time_requeues_itself(stage: Stage) -> None:
    done = "mkdir -p results; touch results/$RANDOM"
    stage.also("zagreus", f"{done}\n{SIGNAL.format(name='USR1')}\nexec /bin/sleep 60")
    stage.run("evaluate", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED
    assert "used up" in stage.run("evaluate", code=75, start=3)


def test_a_conversion_out_of_time_ends_the_one_under_way_and_requeues_itself(stage: Stage) -> None:
    for step in (5, 10):
        (stage.root / str(step)).mkdir()
    stage.also("zagreus", f'{SIGNAL.format(name="USR1")}\nmkdir -p "$3"; touch "$3/config.json"')
    stage.run("convert", code=0)
    assert stage.calls("scontrol requeue") == REQUEUED
    assert len(stage.calls("zagreus convert")) == 1
    stage.run("convert", code=0, start=1)
    assert [call.split()[3] for call in stage.calls("zagreus convert")] == [
        f"hf_checkpoints/{step}" for step in (5, 10)
    ]
    assert stage.calls("scontrol requeue") == REQUEUED, "nothing is left"
    (stage.root / "15").mkdir()
    (stage.root / "20").mkdir()
    assert "used up" in stage.run("convert", code=75, start=3)


def test_a_folder_of_an_earlier_runs_checkpoint_is_not_taken_for_this_runs(stage: Stage) -> None:
    """A training begun anew numbers its steps alike; what is evaluated behind it would be the old one's."""
    for step in (5, 10):
        checkpoint = stage.root / str(step)
        write_checkpoint(checkpoint)
        write_manifest(checkpoint, records_of(checkpoint), {})
    for step, digest in ((5, weights_digest(stage.root / "5")), (10, "0" * 64)):
        folder = stage.folder / "hf_checkpoints" / str(step)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "conversion.json").write_text(json.dumps({"checkpoint_sha256": digest}))
    log = stage.run("convert", code=1)
    assert "hf_checkpoints/5 is there" in log
    assert "hf_checkpoints/10 was made of other weights than" in log
    assert stage.calls("zagreus convert") == []


def test_the_options_of_an_evaluation_reach_it(stage: Stage) -> None:
    stage.run("evaluate", code=0, DATA="eval data", EVALUATE_OPTIONS="--batch-size 16 --limit 2")
    (call,) = stage.calls("zagreus evaluate")
    assert call.endswith("--output results --data eval data --batch-size 16 --limit 2")


@pytest.mark.parametrize(
    ("job", "words"), [("tokenize", "no task was finished"), ("evaluate", "nothing was evaluated")]
)
def test_a_job_that_got_nothing_done_is_not_requeued(job: str, words: str, stage: Stage) -> None:
    """Also when the time limit came while modules were loading."""
    stage.also("zagreus", f"{SIGNAL.format(name='USR1')}\nexec /bin/sleep 60")
    assert words in stage.run(job, code=1)
    (stage.programs / "activate").write_text(f"export PATH={stage.programs}:$PATH; kill -USR1 $$\n")
    stage.program("zagreus", "exec /bin/sleep 60")
    assert words in stage.run(job, code=1)
    assert stage.calls("scontrol requeue") == []


def test_a_conversion_whose_time_is_over_before_it_begins_is_not_requeued(stage: Stage) -> None:
    (stage.root / "5").mkdir()
    (stage.programs / "activate").write_text(f"export PATH={stage.programs}:$PATH; kill -USR1 $$\n")
    assert "nothing was converted" in stage.run("convert", code=1)
    assert stage.calls("zagreus convert") == stage.calls("scontrol requeue") == []


def test_a_job_that_is_done_when_its_time_ends_is_done(stage: Stage) -> None:
    stage.also("zagreus", f"trap '' TERM\n{SIGNAL.format(name='USR1')}\n/bin/sleep 0.3")
    stage.run("tokenize", code=0)
    assert stage.calls("scontrol requeue") == []


def test_a_folder_keeps_the_number_of_tasks_it_was_begun_with(stage: Stage) -> None:
    stage.run("tokenize", code=0)
    (stage.folder / "B" / "logs").mkdir(parents=True)
    (stage.folder / "B" / "logs" / "plan.json").touch()
    stage.run("tokenize", code=0)
    first, second = stage.calls("zagreus tokenize")
    assert "--tasks 8" in first and "--tasks" not in second
