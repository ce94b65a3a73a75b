"""Recipes: several sources by one command, the shipped ones whole and for all languages."""

from pathlib import Path

import pytest

from nanotron_zagreus.data.recipe import jobs_of, load_recipe
from nanotron_zagreus.errors import InputError, MissingInputError


@pytest.mark.parametrize("language", ["por", "ita", "spa", "fra"])
def test_the_shipped_recipes_name_the_cards_data(language, tmp_path):
    jobs = jobs_of(load_recipe(Path(f"smollm2/data_{language}.yaml")), tmp_path)
    folders = [str(job.output.relative_to(tmp_path)) for job in jobs]
    assert folders == [
        f"fineweb-{language}/tokenized",
        f"finepdf-{language}/tokenized",
        "fineweb-edu-350BT/tokenized",
        "starcoder_tokenized/tokenized",
    ]
    assert {(job.tokenizer, job.bos, job.eos) for job in jobs} == {("meta-llama/Llama-3.2-1B", True, False)}
    assert jobs[0].inputs == (f"hf://datasets/HuggingFaceFW/fineweb-2/data/{language}_Latn/train",)
    assert [job.text_column for job in jobs] == ["text", "text", "text", "content"]


def test_special_tokens_are_part_of_the_folder_s_name(tmp_path):
    recipe = load_recipe(Path("smollm2/data_por.yaml"))
    assert jobs_of(recipe, tmp_path, eos=True)[0].output == tmp_path / "fineweb-por" / "bos_eos"
    assert jobs_of(recipe, tmp_path, bos=False, eos=True)[0].output.name == "eos"
    assert jobs_of(recipe, tmp_path, bos=False)[0].output.name == "plain"


def test_the_mixed_configuration_finds_the_folders_of_its_recipe():
    from nanotron_zagreus.config import load_config

    wanted = load_config("smollm2/zagreus_350M_por_mixed.yaml").data_stages[0].data.dataset.folders
    jobs = jobs_of(load_recipe(Path("smollm2/data_por.yaml")), Path("/training/pretraining"), eos=True)
    assert set(wanted) == {job.output for job in jobs}


def test_local_copies_and_another_tokenizer_replace_the_recipe_s(tmp_path):
    recipe = load_recipe(Path("smollm2/data_por.yaml"))
    jobs = jobs_of(recipe, tmp_path, inputs=["finepdf-por=/a", "finepdf-por=/b"], tokenizer="/t", num_tasks=3)
    assert jobs[1].inputs == ("/a", "/b")
    assert {(job.tokenizer, job.num_tasks) for job in jobs} == {("/t", 3)}
    assert jobs[0].inputs[0].startswith("hf://")
    for wrong in ("/a", "nothing=/a"):
        with pytest.raises(InputError, match="SOURCE=PATH"):
            jobs_of(recipe, tmp_path, inputs=[wrong])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tokenizer: t\nsources: {}\n", "at least one"),
        ("tokenizer: t\nsources: {a: {inputs: [x], text: y}}\n", "sources.a.text"),
        ("sources: {a: {inputs: [x]}}\n", "tokenizer"),
        ("tokenizer: t\nsources: {a: {inputs: [x], tasks: 0}}\n", r"sources\.a\.tasks: got 0"),
        ("tokenizer: [\n", "not readable as YAML"),
        ("tokenizer: \xe9\n", "not UTF-8"),
    ],
)
def test_a_malformed_recipe_is_refused(text, word, tmp_path):
    (tmp_path / "r.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=word) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert str(caught.value).count("r.yaml") == 1


def test_a_missing_recipe_is_named():
    with pytest.raises(MissingInputError, match="nowhere"):
        load_recipe(Path("nowhere.yaml"))
