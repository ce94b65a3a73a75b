"""What a launch is expected to take, which jobs it makes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from nanotron_zagreus.config import Config, load_config, load_config_text
from nanotron_zagreus.errors import InputError, WorkError
from nanotron_zagreus.job_queue import job_id_in
from nanotron_zagreus.slurm.duration import estimate_run, lead_seconds, measured_rate, slowest_save_seconds
from nanotron_zagreus.slurm.jobs import Chain, TextSource
from nanotron_zagreus.slurm.run_plan import make_run_plan
from nanotron_zagreus.slurm.site import Site

PUBLISHED = load_config("zagreus_350M_por.yaml")
A_FOLDER = PUBLISHED.data_stages[0].data.dataset.folders[0]
DAY = 86_400
SITE = Site(account="mii", partition="boost", time_limit="4-00:00:00", venv="/opt/venv", hf_home="/opt/hf")


def with_checkpoints(config: Config, path: Path, **changes: object) -> Config:
    return dataclasses.replace(
        config, checkpoints=dataclasses.replace(config.checkpoints, checkpoints_path=path, **changes)
    )


def published_plan(chain: Chain | None = None, site: Site = SITE, config: Config = PUBLISHED):  # type: ignore[no-untyped-def]
    return make_run_plan(config, site, nodes=8, gpus_per_node=8, folder=Path("jobs"), chain=chain)


def test_the_published_run_takes_as_long_as_its_arithmetic_says() -> None:
    estimate = estimate_run(PUBLISHED, time_limit_seconds=4 * DAY, given_rate=50_000)
    assert estimate.num_steps == 2_000_000
    assert estimate.seconds == 2_000_000 * 1_048_576 / (64 * 50_000)  # 7.6 days
    assert estimate.num_requeues == 1
    assert estimate.rate_source == "given"
    assert "2,000,000 steps" in estimate.text() and "1 requeues" in estimate.text()


def test_a_run_without_measurements_says_that_its_rate_is_assumed() -> None:
    assert "assumed" in estimate_run(PUBLISHED, time_limit_seconds=4 * DAY).rate_source


def test_the_runs_own_metrics_are_preferred(tmp_path: Path) -> None:
    lines = [{"iteration": i, "tokens_per_sec_per_gpu": 1000.0 + i} for i in range(1, 201)]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"event": "validation", "iteration": 7}\n{"tokens_per_se'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert measured_rate(tmp_path) == 1150.5  # the median of the last hundred
    for step in (5000, 10_000):
        (tmp_path / str(step)).mkdir()
    estimate = estimate_run(with_checkpoints(PUBLISHED, tmp_path), time_limit_seconds=4 * DAY)
    assert estimate.rate_source == "measured in this run"
    assert estimate.num_steps == 1_990_000


def test_the_lead_is_three_measured_saves(tmp_path: Path) -> None:
    assert lead_seconds(with_checkpoints(PUBLISHED, tmp_path)) == 300
    for step, seconds in ((5000, 100), (10_000, 250)):
        folder = tmp_path / str(step)
        (folder / "model").mkdir(parents=True)
        for name, at in (("model/a.safetensors", 1000), ("manifest.json", 1000 + seconds)):
            (folder / name).write_text("x")
            os.utime(folder / name, (at, at))
    assert slowest_save_seconds(tmp_path) == 250
    assert lead_seconds(with_checkpoints(PUBLISHED, tmp_path)) == 780  # 3 x 250 in whole minutes


def test_a_time_limit_that_saves_cannot_keep_is_refused() -> None:
    with pytest.raises(InputError, match="more than twice"):
        estimate_run(PUBLISHED, time_limit_seconds=500)


@pytest.mark.parametrize(("nodes", "gpus"), [(8, 4), (4, 8), (1, 1), (64, 8)])
def test_ranks_that_are_not_dp_tp_pp_are_refused_with_the_equation(nodes: int, gpus: int) -> None:
    with pytest.raises(InputError) as caught:
        make_run_plan(PUBLISHED, SITE, nodes=nodes, gpus_per_node=gpus, folder=Path("jobs"))
    assert f"{nodes} x {gpus} = {nodes * gpus} ranks" in str(caught.value)
    assert "dp x tp x pp = 64 x 1 x 1 = 64" in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "gpus", "advice"),
    [
        (4, 8, "parallelism.dp to 32 and tokens.batch_accumulation_per_replica to 2"),
        (1, 1, "parallelism.dp to 1 and tokens.batch_accumulation_per_replica to 64"),
        (3, 8, "parallelism.dp to 24 (another global batch: 256 samples do not divide)"),
        (16, 8, "parallelism.dp to 128 (another global batch"),
    ],
)
def test_the_refusal_says_how_to_keep_the_global_batch(nodes: int, gpus: int, advice: str) -> None:
    with pytest.raises(InputError) as caught:
        make_run_plan(PUBLISHED, SITE, nodes=nodes, gpus_per_node=gpus, folder=Path("jobs"))
    assert advice in str(caught.value)


@pytest.mark.parametrize("gpus", [4, 7])
def test_a_number_of_gpus_that_tp_and_pp_do_not_divide_is_told_so(gpus: int) -> None:
    parallelism = dataclasses.replace(PUBLISHED.parallelism, tp=5, dp=2)
    config = dataclasses.replace(PUBLISHED, parallelism=parallelism)
    with pytest.raises(InputError, match=r"dp x tp x pp = 2 x 5 x 1 = 10; .* as many as tp x pp = 5 x 1 divides"):
        make_run_plan(config, SITE, nodes=1, gpus_per_node=gpus, folder=Path("jobs"))


@pytest.mark.parametrize("name", ['a"b', "100%", "a\\b", "a\nb", "exp#1"])
def test_a_folder_that_slurm_would_misread_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="mean something to Slurm"):
        make_run_plan(PUBLISHED, SITE, nodes=8, gpus_per_node=8, folder=Path(name))


def test_a_resume_that_a_requeue_could_not_repeat_is_refused(tmp_path: Path) -> None:
    config = with_checkpoints(PUBLISHED, tmp_path, resume_checkpoint_path=tmp_path / "5000")
    with pytest.raises(InputError, match=r"resume_checkpoint_path.*auto"):
        published_plan(config=config)


def test_the_training_script_holds_the_launch() -> None:
    text = published_plan().script("train").text
    for line in (
        "#SBATCH --nodes=8",
        "#SBATCH --gres=gpu:8",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --account=mii",
        "#SBATCH --partition=boost",
        "#SBATCH --time=4-00:00:00",
        "#SBATCH --signal=B:USR1@300",
        "VENV=/opt/venv",
        "HF_CACHE=/opt/hf",
    ):
        assert line in [each.partition("  ")[0] for each in text.splitlines()], line
    assert "YOUR_" not in text and "/path/to" not in text


def test_the_jobs_read_a_configuration_that_resumes_by_itself() -> None:
    plan = published_plan()
    (config_file,) = plan.files
    loaded = load_config_text(plan.files[config_file], origin="job")
    assert loaded.checkpoints.resume_checkpoint_path == Path("auto")
    assert with_checkpoints(loaded, PUBLISHED.checkpoints.checkpoints_path, resume_checkpoint_path=None) == PUBLISHED
    assert f"CONFIG={config_file}" in plan.script("train").text


def test_a_chain_holds_its_jobs_in_order() -> None:
    folder = A_FOLDER
    sources = (TextSource(input="/corpus/por", output=folder, text_column="text"),)
    chain = Chain(sources=sources, max_failures=20, hf_folder=Path("hf"), suite="progression-por")
    plan = published_plan(chain, dataclasses.replace(SITE, cpu_partition="serial", directives=("--exclusive",)))
    assert [job.name for job in plan.jobs] == ["tokenize", "train", "convert", "evaluate"]
    tokenize = plan.script("tokenize").text
    assert "#SBATCH --array=0-0" in tokenize and "#SBATCH --partition=serial" in tokenize
    assert "SPECIAL_TOKENS='--bos --no-eos'" in tokenize and "\nMAX_FAILURES=20 " in tokenize
    assert plan.files[plan.launch.sources_file] == f"/corpus/por\t{folder}\ttext\n"
    assert "HF_CHECKPOINTS=hf" in plan.script("convert").text
    assert "SUITE=progression-por" in plan.script("evaluate").text
    assert "#SBATCH --gres=gpu:1" in plan.script("evaluate").text
    assert not any(str(folder) in text for text in plan.obstacles)
    assert any("9 of 10 folders do not exist" in text for text in plan.obstacles), "only one of them is tokenized"


def test_each_job_gets_what_its_nodes_offer() -> None:
    """Whole nodes are chosen for the training alone; jobs without a GPU have a partition, cores and a limit."""
    folder = A_FOLDER
    chain = Chain(sources=(TextSource(input="a", output=folder),), hf_folder=Path("hf"), suite="progression-por")
    site = dataclasses.replace(
        SITE,
        cpu_partition="serial",
        cpu_partition_cores=3,
        cpu_time_limit="0-00:30:00",
        directives=("--exclusive", "--nodelist=n[1-8]", "--qos=high"),
    )
    plan = published_plan(chain, site)
    assert [job.name for job in plan.jobs if "--exclusive" in job.text or "--nodelist" in job.text] == ["train"]
    assert all("#SBATCH --qos=high" in job.text for job in plan.jobs)
    others = published_plan(chain, dataclasses.replace(site, cpu_directives=("--qos=cpu", "--exclusive")))
    assert {job.name: "--qos=high" in job.text for job in others.jobs} == {
        "tokenize": False,
        "train": True,
        "convert": False,
        "evaluate": True,
    }
    assert "#SBATCH --qos=cpu\n#SBATCH --exclusive" in others.script("tokenize").text
    none = published_plan(chain, dataclasses.replace(site, cpu_directives=()))
    assert "--qos" not in none.script("convert").text
    limits, cpus, partitions = (
        {job.name: re.search(rf"^#SBATCH --{option}=(\S+)", job.text, re.M)[1] for job in plan.jobs}  # type: ignore[index]
        for option in ("time", "cpus-per-task", "partition")
    )
    assert limits == {
        "tokenize": "0-00:30:00",
        "train": "4-00:00:00",
        "convert": "0-00:30:00",
        "evaluate": "4-00:00:00",
    }
    assert cpus == {"tokenize": "3", "train": "32", "convert": "3", "evaluate": "8"}
    assert partitions == {"tokenize": "serial", "train": "boost", "convert": "serial", "evaluate": "boost"}


def test_each_job_is_told_what_the_site_and_the_chain_say() -> None:
    site = dataclasses.replace(
        SITE, hf_home=None, modules=("cuda", "gcc"), network_interface="ib0,ib1", offline=False, max_requeues=7
    )
    folders = PUBLISHED.data_stages[0].data.dataset.folders[:2]
    chain = Chain(
        sources=tuple(TextSource(input=folder.name, output=folder) for folder in folders),
        eos=True,
        hf_folder=Path("hf"),
        convert_options="--accept-tokenizer",
        suite="progression-por",
        evaluate_options="--limit 2",
        results=Path("scores"),
        data=Path("copies"),
    )
    plan = published_plan(chain, site)
    shared = {"MODULES": "'cuda gcc'", "VENV": "/opt/venv", "HF_CACHE": "", "OFFLINE": "0", "MAX_REQUEUES": "7"}
    jobs = Path("jobs").absolute()
    config = {"CONFIG": str(jobs / "config.yaml")}
    expected = {
        "tokenize": {
            "SOURCES": str(jobs / "sources.tsv"),
            "TOKENIZER": "meta-llama/Llama-3.2-1B",
            "SPECIAL_TOKENS": "'--bos --eos'",
        },
        "train": {"NETWORK_INTERFACE": "ib0,ib1", "LOGS": str(jobs / "logs"), **config},
        "convert": {"HF_CHECKPOINTS": "hf", "CONVERT_OPTIONS": "--accept-tokenizer", **config},
        "evaluate": {
            "HF_CHECKPOINTS": "hf",
            "SUITE": "progression-por",
            "RESULTS": "scores",
            "DATA": "copies",
            "EVALUATE_OPTIONS": "'--limit 2'",
        },
    }
    for job in plan.jobs:
        told = dict(re.findall(r"^([A-Z_]+)=('[^']*'|\S*)", job.text, re.MULTILINE))
        assert {name: told[name] for name in (*shared, *expected[job.name])} == shared | expected[job.name], job.name
        assert re.search(rf"^#SBATCH --job-name=\S+-{job.name}\b", job.text, re.MULTILINE)
    assert "#SBATCH --array=0-1" in plan.script("tokenize").text


@pytest.mark.parametrize(("limit", "lead"), [("4-00:00:00", 300), ("0-00:20:00", 300), ("0-00:05:00", 75)])
def test_a_conversion_with_a_short_limit_has_time_left_to_convert(limit: str, lead: int) -> None:
    plan = published_plan(Chain(hf_folder=Path("hf")), dataclasses.replace(SITE, cpu_time_limit=limit))
    assert re.search(rf"^#SBATCH --signal=B:USR1@{lead}\b", plan.script("convert").text, re.MULTILINE)


@pytest.mark.parametrize(
    ("directive", "tokenize"),
    [("--mem=0", ["--mem=0"]), ("--mem-per-cpu=4G", ["--mem-per-cpu=4G"]), ("--mem-per-gpu=60G", [])],
)
def test_a_job_is_not_asked_for_memory_that_slurm_would_refuse(directive: str, tokenize: list[str]) -> None:
    """It takes memory in one form only, of which a conversion has its own, and none by the GPU where there is none."""
    source = TextSource(input="a", output=A_FOLDER)
    chain = Chain(sources=(source,), hf_folder=Path("hf"), suite="progression-por")
    plan = published_plan(chain, dataclasses.replace(SITE, directives=(directive,)))
    asked = {job.name: re.findall(r"^#SBATCH (--mem\S*)", job.text, re.MULTILINE) for job in plan.jobs}
    assert asked == {"tokenize": tokenize, "train": [directive], "convert": ["--mem=16G"], "evaluate": [directive]}


def test_a_conversion_asks_for_what_its_model_takes() -> None:
    """Twice 7 billion parameters in fp32 did not fit the 16G that are enough for 0.4 billion."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
    shape = dataclasses.replace(PUBLISHED.model.model_config, **sizes, num_hidden_layers=32, vocab_size=32000)
    larger = dataclasses.replace(PUBLISHED, model=dataclasses.replace(PUBLISHED.model, model_config=shape))
    plan = published_plan(Chain(hf_folder=Path("hf")), config=larger)
    assert re.findall(r"^#SBATCH --mem=(\S+)", plan.script("convert").text, re.MULTILINE) == ["61G"]


@pytest.mark.parametrize("directive", ["--mem=64G", "--mem-per-cpu=16G"])
def test_a_conversion_gets_the_memory_that_jobs_without_a_gpu_are_given(directive: str) -> None:
    site = dataclasses.replace(SITE, directives=("--mem=0",), cpu_directives=(directive,))
    text = published_plan(Chain(hf_folder=Path("hf")), site).script("convert").text
    assert re.findall(r"^#SBATCH (--mem\S*)", text, re.MULTILINE) == [directive]


def test_a_source_is_an_input_a_folder_and_perhaps_a_column() -> None:
    for text, column in (("corpus/lang=pt=tok/pt", "text"), ("corpus/lang=pt=tok/pt:content", "content")):
        assert TextSource.parse(text) == TextSource(input="corpus/lang=pt", output=Path("tok/pt"), text_column=column)
    for text in ("corpus", "=tok", "corpus=", "corpus=:content"):
        with pytest.raises(InputError, match=f"--tokenize: got '{text}', expected INPUT=FOLDER"):
            TextSource.parse(text)


@pytest.mark.parametrize(
    ("chain", "key_word"),
    [
        (Chain(suite="progression-por"), "--convert"),
        (Chain(sources=(TextSource(input="a", output=Path("elsewhere")),)), "elsewhere"),
        (Chain(sources=(TextSource(input="a\tb", output=A_FOLDER),)), "tab"),
        (Chain(sources=(TextSource(input="a", output=A_FOLDER), TextSource(input="b", output=A_FOLDER))), "twice"),
    ],
)
def test_a_chain_that_contradicts_itself_is_refused(chain: Chain, key_word: str) -> None:
    with pytest.raises(InputError, match=key_word):
        published_plan(chain)


def test_obstacles_of_a_submission_name_everything_that_is_missing(tmp_path: Path) -> None:
    text = " ".join(published_plan().obstacles)
    for words in (
        *("10 of 10 folders", "not in the Hugging Face cache of /opt/hf", "/opt/venv has no bin/activate"),
        "hf_home /opt/hf does not exist",
    ):
        assert words in text
    assert "hf_home" not in " ".join(published_plan(site=dataclasses.replace(SITE, hf_home=str(tmp_path))).obstacles)
    online = " ".join(published_plan(site=dataclasses.replace(SITE, offline=False)).obstacles)
    assert "Hugging Face cache" not in online


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("123\n", "123"),
        ("123;cluster\n", "123"),
        ("sbatch: lua: welcome\nyour balance is 12 h\n4567\n", "4567"),
        ("Submitted batch job 89\n", "89"),
        ("12 jobs wait\nsbatch: Submitted batch job 4567 on cluster c\nbye 3", "4567"),
    ],
)
def test_a_job_id_is_found_in_what_sites_print_around_it(text: str, job_id: str) -> None:
    assert job_id_in(text) == job_id


@pytest.mark.parametrize("text", ["", "Submitted batch job", "error: 12 nodes"])
def test_an_answer_without_a_job_id_is_no_success(text: str) -> None:
    with pytest.raises(WorkError, match="no job id"):
        job_id_in(text)
