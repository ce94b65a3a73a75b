"""What a conversion of a run's checkpoints would refuse is told before it trains, and is what conversion refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanotron_zagreus.cli.app import run
from nanotron_zagreus.config import Config, dump_config
from nanotron_zagreus.conversion.prospects import conversion_prospects
from nanotron_zagreus.conversion.tokenizer_files import find_tokenizer
from nanotron_zagreus.conversion.vocabulary import check_special_tokens, fit_vocabulary
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.slurm.jobs import Chain
from nanotron_zagreus.slurm.run_plan import make_run_plan
from nanotron_zagreus.slurm.site import Site
from nanotron_zagreus.training.preflight import check_before_start
from tests.unit.checkpoint_fixtures import write_descriptions
from tests.unit.conversion_fixtures import NUM_TOKENS, TINY, write_tokenizer_folder
from tests.unit.data_fixtures import make_config, write_source


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Return a maker of configurations that fit a tokenizer of 131 tokens, unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    write_tokenizer_folder(tmp_path / "tok")
    write_source(tmp_path / "a", [2], tokenizer="tok")

    def make(vocab_size: int = NUM_TOKENS, bos: int | None = 0, eos: int | None = 1, **changes: dict) -> Config:
        config = make_config(
            [{"dataset": {"dataset_folder": "a"}}], tokenizer={"tokenizer_name_or_path": "tok"}, **changes
        )
        model = dataclasses.replace(
            config.model.model_config, vocab_size=vocab_size, bos_token_id=bos, eos_token_id=eos
        )
        return dataclasses.replace(config, model=dataclasses.replace(config.model, model_config=model))

    return make


def record(folder: Path, **facts: object) -> None:
    """Write what `zagreus tokenize` records."""
    known = {"tokenizer": "tok", "tokenizer_sha256": "0" * 64, "vocab_size": NUM_TOKENS, "bos_token": "<s>"}
    (folder / "tokenization.json").write_text(json.dumps({**known, "eos_token": None, **facts}))


def refuses(config: Config, **options: int) -> bool:
    """Say whether the conversion itself refuses the run's vocabulary."""
    declared = config.model.model_config.vocab_size
    arch = dataclasses.replace(TINY, vocab_size=declared)
    try:
        fit_vocabulary(arch, find_tokenizer("tok"), 1, declared=declared, **options)
    except InputError:
        return True
    return False


def test_a_model_that_fits_its_tokenizer_is_told_nothing(configure: Callable[..., Config]) -> None:
    assert conversion_prospects(configure(), goes_on=False) == []
    assert not refuses(configure())


def test_more_tokens_than_rows_are_refused_for_conversion_has_no_way_out(configure: Callable[..., Config]) -> None:
    config = configure(vocab_size=130)
    assert refuses(config) and refuses(config, vocab_size=130)
    for goes_ahead in (lambda: conversion_prospects(config, goes_on=False), lambda: check_before_start(config, 1)):
        with pytest.raises(InputError, match=r"vocab_size: got 130, .*131 tokens.*set it to 131"):
            goes_ahead()


def test_weights_with_too_few_rows_are_told_not_stopped(configure: Callable[..., Config]) -> None:
    """Their rows are what they are, and another tokenizer may convert what comes of them."""
    config = configure(vocab_size=130, model={"init_method": {"path": "imported"}})
    (notice,) = conversion_prospects(config, goes_on=False)
    assert "got 130" in notice and "131 tokens" in notice


def test_a_run_that_goes_on_with_too_few_rows_is_told_not_stopped(configure: Callable[..., Config]) -> None:
    config = configure(vocab_size=130, checkpoints={"resume_checkpoint_path": "auto"})
    write_descriptions(config, 10)
    (notice,) = check_before_start(config, 1).notices
    assert "got 130" in notice and "131 tokens" in notice


def test_rows_without_a_token_are_a_notice_with_the_option(configure: Callable[..., Config]) -> None:
    config = configure(vocab_size=136)
    assert refuses(config) and not refuses(config, vocab_size=136)
    (notice,) = conversion_prospects(config, goes_on=False)
    assert "vocab_size: got 136" in notice and "131 tokens" in notice and "--vocab-size 136" in notice
    assert check_before_start(config, 1).notices == (notice,)


def test_other_special_tokens_are_a_notice_with_the_option(configure: Callable[..., Config]) -> None:
    config = configure(bos=None, eos=2)
    with pytest.raises(InputError, match="--special-tokens"):
        check_special_tokens(dataclasses.replace(TINY, eos_token_id=2), find_tokenizer("tok"))
    (notice,) = conversion_prospects(config, goes_on=False)
    assert "model.model_config.eos_token_id: got 2" in notice and "eos_token has id 1" in notice
    assert "--special-tokens" in notice


def test_a_tokenizer_that_is_not_here_is_known_by_its_record(configure: Callable[..., Config]) -> None:
    record(Path("a"))
    Path("tok").rename("elsewhere")
    assert conversion_prospects(configure(eos=2), goes_on=False) == []
    with pytest.raises(InputError, match=r"vocab_size: got 130, .*a was tokenized.*131 tokens"):
        conversion_prospects(configure(vocab_size=130), goes_on=False)
    (notice,) = conversion_prospects(configure(vocab_size=136), goes_on=False)
    assert "--vocab-size 136" in notice


def test_without_tokenizer_and_record_nothing_is_said(configure: Callable[..., Config]) -> None:
    Path("tok").rename("elsewhere")
    assert conversion_prospects(configure(vocab_size=136, eos=2), goes_on=False) == []


def test_a_tokenizer_that_cannot_be_read_is_a_notice(configure: Callable[..., Config]) -> None:
    Path("tok/tokenizer.json").write_text("")
    (notice,) = conversion_prospects(configure(), goes_on=False)
    assert "zagreus convert" in notice and "not readable as a tokenizer" in notice


def test_a_job_that_would_start_with_too_few_rows_is_not_queued(configure: Callable[..., Config]) -> None:
    site = Site(account="mii", partition="boost", time_limit="1-00:00:00", venv="/opt/venv", hf_home=None)

    def obstacles(config: Config) -> str:
        return "\n".join(make_run_plan(config, site, nodes=1, gpus_per_node=1, folder=Path("jobs")).obstacles)

    assert "set it to 131" in obstacles(configure(vocab_size=130))
    assert "131" not in obstacles(configure(vocab_size=136))
    write_descriptions(configure(vocab_size=130), 10)
    assert "131" not in obstacles(configure(vocab_size=130)), "the job goes on"


def test_a_conversion_that_lacks_an_option_is_not_queued(configure: Callable[..., Config]) -> None:
    site = Site(account="mii", partition="boost", time_limit="1-00:00:00", venv="/opt/venv", hf_home=None)

    def obstacles(options: str) -> str:
        config, chain = configure(vocab_size=136, eos=2), Chain(hf_folder=Path("hf"), convert_options=options)
        plan = make_run_plan(config, site, nodes=1, gpus_per_node=1, folder=Path("jobs"), chain=chain)
        return "\n".join(plan.obstacles)

    assert "--convert: " in obstacles("") and "--vocab-size 136" in obstacles("")
    some = obstacles("--vocab-size=136")
    assert "--vocab-size 136" not in some and "--special-tokens" in some
    assert "--convert: " not in obstacles("--special-tokens config --vocab-size 136")
    Path("tok/tokenizer.json").unlink()
    assert "--convert: " not in obstacles(""), "the tokenizer's files may still come"


def test_check_tells_all_of_it(configure: Callable[..., Config], capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(dump_config(configure(vocab_size=136, eos=2)))
    assert run(["check", "--config-file", "run.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "--vocab-size 136" in printed and "eos_token has id 1" in printed
    Path("run.yaml").write_text(dump_config(configure(vocab_size=130)))
    assert run(["check", "--config-file", "run.yaml"]) == 2
    assert "set it to 131" in capsys.readouterr().err
