"""What Slurm is asked before a job is submitted, and how jobs wait for each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import SlurmCluster, missing_requirement
from conftest import Login
from evaluation_fixtures import progression_rows, write_data
from tiny_runs import tiny_config, write_config

from tests.unit.tokenizer_fixtures import BOS, EOS, TEXTS, train_tokenizer

PUBLISHED = ("--config-file", "zagreus_350M_por.yaml", "--nodes", "8", "--gpus-per-node", "8")


@pytest.fixture
def cluster_of_eight(tmp_path: Path) -> Iterator[Login]:
    """The published run's cluster: 8 nodes with 8 GPUs each."""
    reason = missing_requirement()
    if reason is not None:
        pytest.skip(f"no Slurm cluster can be started here: {reason}")
    with SlurmCluster(num_nodes=8) as running:
        yield Login(running, tmp_path)


def change_site(login: Login, **changes: object) -> None:
    path = login.folder / "slurm_site.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def queue(cluster: SlurmCluster) -> str:
    return cluster.run(["squeue", "--noheader"]).strip()


def test_the_published_run_on_eight_by_eight_gpus_is_accepted(cluster_of_eight: Login) -> None:
    change_site(cluster_of_eight, time_limit="4-00:00:00", cpus_per_node=32)
    checked = cluster_of_eight.zagreus("slurm", "check", *PUBLISHED, code=2)
    assert "obstacle data_stages: 10 of 10 folders" in checked.stderr
    assert "Slurm accepts it: Job" in checked.stdout
    assert "on nodes n[1-8] in partition main" in checked.stdout
    assert "256 processors" in checked.stdout
    rendered = cluster_of_eight.zagreus("slurm", "render", *PUBLISHED).stdout
    script = cluster_of_eight.folder / "rendered.sbatch"
    script.write_text(rendered)
    assert "n[1-8]" in cluster_of_eight.cluster.run(["sbatch", "--test-only", script])
    refused = cluster_of_eight.zagreus("slurm", "submit", *PUBLISHED, code=2).stderr
    assert "10 of 10 folders" in refused and "gated" in refused
    assert queue(cluster_of_eight.cluster) == ""


def test_gpus_that_the_nodes_do_not_have_are_refused_before_submission(login: Login) -> None:
    (login.folder / "tok").mkdir()
    config = write_config(login.folder / "run.yaml", tiny_config(login.folder, parallelism__dp=2))
    launch = ("--config-file", config, "--nodes", "2", "--gpus-per-node", "1")
    before = queue(login.cluster)
    change_site(login, gpu_type="b200")
    assert "Slurm refuses it" in login.zagreus("slurm", "submit", *launch, code=2).stderr
    change_site(login, gpu_type=None, partition="gold")
    assert "invalid partition" in login.zagreus("slurm", "check", *launch, code=2).stderr
    change_site(login, partition="main", cpus_per_node=65)
    assert "Slurm refuses it" in login.zagreus("slurm", "submit", *launch, code=2).stderr
    assert queue(login.cluster) == before


def test_a_failed_first_job_cancels_the_chain(login: Login) -> None:
    failing = login.cluster.run(["sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 3; exit 1"]).strip()
    config = tiny_config(login.folder, parallelism__dp=2)
    config["data_stages"][1]["data"]["dataset"]["dataset_folder"] = ["not-tokenized-yet"]
    (login.folder / "tok").mkdir()
    file = write_config(login.folder / "run.yaml", config)
    jobs = login.submit(file, "--after", failing, "--convert", "hf")
    assert list(jobs) == ["train", "convert"]
    assert login.cluster.wait(failing)["JobState"] == "FAILED"
    for job in jobs.values():
        assert login.cluster.wait(job)["JobState"] == "CANCELLED"
    assert not login.events(login.folder / "checkpoints")


def test_a_whole_chain_turns_text_into_a_table_of_scores(login: Login) -> None:
    """Tokenize array, training on two nodes, conversion, evaluation: submitted at once, nothing done by hand."""
    folder = login.folder
    train_tokenizer(folder / "tok")
    special = {"bos_token": BOS, "eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tok" / "tokenizer_config.json").write_text(json.dumps(special))
    for name, texts in (("english", TEXTS[:120]), ("portuguese", TEXTS[120:])):
        (folder / "corpus" / name).mkdir(parents=True)
        lines = (json.dumps({"text": text}) for text in texts * 4)
        (folder / "corpus" / name / "0.jsonl").write_text("\n".join(lines))
    data = write_data(folder / "data-sets", progression_rows(num_documents=3))
    dataset = {"dataset_folder": ["shards/english", "shards/portuguese"], "dataset_weights": [0.5, 0.5]}
    config = tiny_config(
        folder,
        parallelism__dp=2,
        tokens__batch_accumulation_per_replica=2,
        data_stages=[{"name": "one", "start_training_step": 1, "data": {"dataset": dataset}}],
        checkpoints__checkpoints_path="checkpoints",
        checkpoints__checkpoint_interval=6,
        model__model_config__vocab_size=400,
        model__model_config__bos_token_id=0,
        model__model_config__eos_token_id=1,
    )
    file = write_config(folder / "run.yaml", config)
    tokenize = [
        option for name in ("english", "portuguese") for option in ("--tokenize", f"corpus/{name}=shards/{name}")
    ]
    jobs = login.submit(
        file,
        *tokenize,
        "--eos",
        "--convert",
        "hf",
        "--evaluate",
        "progression-por",
        "--data",
        data,
        "--results",
        "scores",
    )
    assert list(jobs) == ["tokenize", "train", "convert", "evaluate"]
    ended = {name: login.cluster.wait(job, seconds=900) for name, job in jobs.items()}
    assert {name: job["JobState"] for name, job in ended.items()} == dict.fromkeys(jobs, "COMPLETED"), login.logs()
    assert sorted(path.name for path in (folder / "hf").iterdir()) == ["12", "6"]
    table = login.zagreus("progress", "scores", "--suite", "progression-por", "--format", "json").stdout
    assert {"6", "12"} <= {str(row.get("step")) for row in rows_of(json.loads(table))}, table
    assert "12" in (folder / "slurm_jobs/tiny/logs" / f"tiny-evaluate-{jobs['evaluate']}.log").read_text()
    assert sys.prefix in (folder / "slurm_jobs/tiny/train.sbatch").read_text()


def rows_of(value: object) -> Iterator[dict[str, object]]:
    """Yield every mapping in JSON data."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from rows_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from rows_of(item)
