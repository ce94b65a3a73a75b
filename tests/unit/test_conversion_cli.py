"""The command line of conversion and generation: exit codes, JSON, one line per error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from examples.llama import convert_hf_to_nanotron, convert_nanotron_to_hf
from nanotron_zagreus.cli.app import run
from nanotron_zagreus.cli.convert import parse_size
from nanotron_zagreus.errors import InputError
from nanotron_zagreus.generation import Generator, Sampling
from tests.unit.conversion_fixtures import write_checkpoint, write_tokenizer_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_tokenizer_folder(folder / "tokenizer")
    write_checkpoint(folder / "20", tp=5)
    assert run(["convert", str(folder / "20"), str(folder / "hf"), "--tokenizer", str(folder / "tokenizer")]) == 0
    return folder


def test_convert_prints_its_record_as_json(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["convert", str(root / "20"), str(tmp_path / "hf"), "--tokenizer", str(root / "tokenizer"), "--json"]
    assert run(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verification"]["top1_agreement"] == 1.0
    assert record["tp"] == 5


def test_json_with_a_push_leaves_stdout_to_the_record(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(root / "20"), str(tmp_path / "hf"), "--tokenizer", str(root / "tokenizer"), "--json"]
    assert run([*arguments, "--push-to-hub", "mii-llm/tiny", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["step"] == 20
    assert "would push" in said.err and "private" in said.err


def test_an_interrupted_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nanotron_zagreus.training.outlook.look_ahead", interrupted)
    assert run(["check", "--config-file", "smollm2/zagreus_tiny.yaml"]) == 130
    assert capsys.readouterr().err.strip().startswith("zagreus: interrupted")


def test_a_truncated_folder_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root / "hf", tmp_path / "hf")
    path = tmp_path / "hf/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(["generate", str(tmp_path / "hf"), "--prompt", "ab"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zagreus: ")]
    assert len(errors) == 1 and "cannot load it" in errors[0]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["convert", "{root}/nowhere", "{tmp}/hf", "--tokenizer", "{root}/tokenizer"], 2, "does not exist"),
        (["convert", "{root}/20", "{root}/hf", "--tokenizer", "{root}/tokenizer"], 2, "not empty"),
        (["convert", "{root}/20", "{tmp}/hf", "--tokenizer", "{root}/nowhere"], 2, "no such file"),
        (["convert", "{root}/20", "{tmp}/hf", "--tokenizer", "{root}/tokenizer", "--dtype", "int8"], 2, "bfloat16"),
        (["convert", "{root}/20", "{tmp}/hf", "--tokenizer", "{root}/tokenizer", "--gguf", "Q4"], 2, "Q8_0"),
        (["convert", "{root}/20", "{tmp}/hf", "--tokenizer", "{root}/tokenizer", "--max-file-size", "big"], 2, "2GB"),
        (["import", "{root}/20", "{tmp}/back"], 2, "config.json"),
        (["import", "{root}/hf", "{tmp}/back", "--tp", "3"], 2, "not whole"),
        (["generate", "{root}/20", "--prompt", "a"], 2, "config.json"),
        (["generate", "{root}/hf", "--prompt", ""], 2, "no token"),
        (["generate", "{root}/hf", "--prompt", "abc", "--max-new-tokens", "500"], 2, "at most 253"),
        (["generate", "{root}/hf", "--prompt", "abc", "--device", "foo"], 2, "--device: got 'foo'"),
        (["generate", "{root}/hf", "--prompt", "abc", "--device", "cuda:99"], 2, "--device: got 'cuda:99'"),
        (["convert", "{root}/20", "{tmp}/hf", "--tokenizer", "{root}/tokenizer", "--dry-run"], 2, "--push-to-hub"),
        (["convert", "{root}/20", "{tmp}/hf", "--tokenizer", "{root}/tokenizer", "--branch", "b"], 2, "--push-to-hub"),
        (
            [
                "convert",
                "{root}/20",
                "{tmp}/hf",
                "--tokenizer",
                "{root}/tokenizer",
                "--no-verify",
                "--push-to-hub",
                "a/b",
            ],
            2,
            "--no-verify",
        ),
        (["convert", "{root}/20", "{root}/20/hf", "--tokenizer", "{root}/tokenizer"], 2, "inside"),
        (["import", "{root}/hf", "{root}/hf/back"], 2, "inside"),
        (["card", "{root}/20"], 2, "conversion.json"),
        (["push", "{root}/hf", "nonsense", "--dry-run"], 2, "hub id"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_exit_code_2(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, word: str
) -> None:
    assert run([argument.format(root=root, tmp=tmp_path) for argument in arguments]) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zagreus: ")]
    assert len(errors) == 1
    assert word in errors[0]
    assert not list(tmp_path.iterdir())


def test_a_wrong_checkpoint_exits_with_3_and_leaves_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "20")
    path = tmp_path / "20/model/model/final_layer_norm/pp_block/model_weight.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    assert run(["convert", str(tmp_path / "20"), str(tmp_path / "hf"), "--tokenizer", str(root / "tokenizer")]) == 3
    assert "not finite" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["20"]


def test_a_refused_prompt_is_not_printed_and_neither_are_those_before_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", str(root / "hf"), "--prompt", "ab", "--prompt", "", "--max-new-tokens", "5"]) == 2
    assert capsys.readouterr().out == ""


def test_generate_prints_json_and_repeats_itself(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", str(root / "hf"), "--prompt", "ab", "--prompt", "cd", "--max-new-tokens", "5", "--json"]
    assert run([*arguments, "--seed", "3"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run([*arguments, "--seed", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert [completion["prompt"] for completion in first] == ["ab", "cd"]
    assert all(completion["num_new_tokens"] <= 5 for completion in first)


def test_text_is_streamed_as_it_is_returned(root: Path) -> None:
    pieces: list[str] = []
    generator = Generator(root / "hf", device="cpu")
    completion = generator.complete("ab", max_new_tokens=20, sampling=Sampling(greedy=True), on_text=pieces.append)
    assert "".join(pieces) == completion.text
    assert completion.num_prompt_tokens == 2


def test_sampling_from_one_token_is_greedy_and_from_all_is_not(root: Path) -> None:
    generator = Generator(root / "hf", device="cpu")

    def complete(**sampling: object) -> str:
        return generator.complete("ab", max_new_tokens=20, sampling=Sampling(**sampling)).text  # type: ignore[arg-type]

    greedy = complete(greedy=True)
    assert complete(top_k=1, repetition_penalty=1.0) == greedy
    assert complete(top_k=0, temperature=5.0) != complete(top_k=2, temperature=5.0)
    assert complete(top_k=0, temperature=5.0) != greedy


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 1.5}, {"repetition_penalty": 0.0}])
def test_sampling_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_upstream_s_flags_work_in_both_directions(root: Path, tmp_path: Path) -> None:
    forward = [f"--checkpoint_path={root / '20'}", f"--save_path={tmp_path / 'hf'}"]
    tokenizer = ["--tokenizer_name", str(root / "tokenizer")]
    assert convert_nanotron_to_hf.main([*forward, *tokenizer, "--max_file_size=30KB"]) == 0
    assert (tmp_path / "hf/model.safetensors.index.json").is_file()
    back = [f"--checkpoint_path={tmp_path / 'hf'}", f"--save_path={tmp_path / 'back'}", "--tp", "5"]
    assert convert_hf_to_nanotron.main(back) == 0
    assert (tmp_path / "back/model_config.json").is_file()


def test_only_the_first_of_several_ranks_converts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    arguments = [f"--checkpoint_path={root / '20'}", f"--save_path={tmp_path / 'hf'}", "--tokenizer_name", "x"]
    assert convert_nanotron_to_hf.main(arguments) == 0
    assert not (tmp_path / "hf").exists()


def test_sizes_are_read_as_the_hub_counts() -> None:
    assert [parse_size(text) for text in ("2GB", "500 mb", "1KB", "7")] == [2 * 10**9, 500 * 10**6, 1000, 7]
    for text in ("", "0GB", "-1GB", "1.5GB", "2GiB"):
        with pytest.raises(InputError):
            parse_size(text)
