"""Which tokens stand around a document: told by the tokenizer, or refused with the way out."""

import contextlib
import json
import os

import pytest

from nanotron_zagreus.data.mixture import open_mixture
from nanotron_zagreus.data.tokenizer_identity import check_tokenizers
from nanotron_zagreus.data.tokenizer_loading import choose_tokenizer, load_tokenizer
from nanotron_zagreus.errors import InputError, MissingInputError
from nanotron_zagreus.file_hash import hash_file
from tests.unit.tokenizer_fixtures import BOS, EOS, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer(root / "named", named=True, single=None)
    train_tokenizer(root / "template", single=f"{BOS} $A {EOS}")
    train_tokenizer(root / "bare", single=None)
    return root


@pytest.mark.parametrize("name", ["named", "template", "bare", "named/tokenizer.json"])
@pytest.mark.parametrize(
    ("bos", "eos", "before", "after"),
    [(True, False, [0], []), (True, True, [0], [1]), (False, True, [], [1]), (False, False, [], [])],
)
def test_special_tokens_are_written_as_asked(folder, name, bos, eos, before, after):
    choice = choose_tokenizer(str(folder / name), bos=bos, eos=eos)
    assert (choice.bos_token, choice.eos_token) == (BOS if bos else None, EOS if eos else None)
    plain = load_tokenizer(choose_tokenizer(str(folder / name), bos=False)).encode("um texto").ids
    assert load_tokenizer(choice).encode("um texto").ids == before + plain + after


def test_a_named_token_wins(folder):
    choice = choose_tokenizer(str(folder / "named"), bos_token=EOS)
    assert load_tokenizer(choice).encode("").ids == [1]


def test_a_tokenizer_without_the_token_is_refused(folder, tmp_path):
    data = json.loads((folder / "bare" / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["content"] = token["content"].replace("text", "thing")
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    for role in ("bos", "eos"):
        with pytest.raises(InputError, match=f"--{role}-token TEXT, or use --no-{role}"):
            choose_tokenizer(str(tmp_path), bos=role == "bos", eos=role == "eos")
    with pytest.raises(InputError, match=r"--eos-token.*<no>"):
        choose_tokenizer(str(tmp_path), bos=False, eos=True, eos_token="<no>")


def test_length_limits_of_a_saved_tokenizer_are_not_applied(folder, tmp_path):
    data = json.loads((folder / "named" / "tokenizer.json").read_text())
    data["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    choice = choose_tokenizer(str(tmp_path), bos=False)
    assert len(load_tokenizer(choice).encode("um texto muito longo").ids) > 3


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match=r"no tokenizer\.json"):
        choose_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        choose_tokenizer(str(tmp_path))
    with pytest.raises(MissingInputError, match="no such file or folder"):
        choose_tokenizer(str(tmp_path / "nowhere" / "at" / "all"))


def test_the_hash_decides_where_both_sides_have_one(folder, tmp_path):
    from tests.unit.data_fixtures import make_config, write_source

    source_folder = write_source(tmp_path / "x", [5], tokenizer="/gone/tokenizer.json")
    record = {"tokenizer": "/gone/tokenizer.json", "tokenizer_sha256": hash_file(folder / "named" / "tokenizer.json")}
    (source_folder / "tokenization.json").write_text(json.dumps(record))

    def check(name):
        from nanotron_zagreus.data.sources import open_source

        config = make_config(
            [{"dataset": {"dataset_folder": str(source_folder)}}],
            tokenizer={"tokenizer_name_or_path": str(folder / name)},
        )
        options = {"sequence_length": 8, "num_validation_windows": 0, "seed": 1, "vocab_size": 1000}
        check_tokenizers(config, [open_source(source_folder, **options)])

    check("named")
    with pytest.raises(InputError, match="SHA-256"):
        check("template")
    (source_folder / "tokenization.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenization record"):
        check("named")


@pytest.mark.parametrize("made_with", ["named", "named/", "./named/tokenizer.json", "link", "~/named", "cached"])
def test_without_a_hash_all_spellings_of_a_path_are_one_name(made_with, folder, tmp_path, monkeypatch):
    """As of shards that datatrove made."""
    from tests.unit.data_fixtures import make_config, write_source

    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    (tmp_path / "link").symlink_to(folder / "named")
    name = str(tmp_path / "link") if made_with == "link" else made_with
    if made_with == "cached":  # as the hub's library keeps files
        (folder / "named" / "tokenizer.json").rename(tmp_path / "2f5b")
        (folder / "named" / "tokenizer.json").symlink_to(tmp_path / "2f5b")
        name = str(folder / "named" / "tokenizer.json")
    source_folder = str(write_source(tmp_path / "x", [5], tokenizer=name))
    for wanted, is_same in ((str(folder / "named"), True), (str(folder / "template"), False)):
        config = make_config(
            [{"dataset": {"dataset_folder": source_folder}}], tokenizer={"tokenizer_name_or_path": wanted}
        )
        with contextlib.nullcontext() if is_same else pytest.raises(InputError, match="tokenizer_names"):
            open_mixture(config)


@pytest.mark.parametrize("name", ["~nobody-here/tokenizer", "closed/tokenizer.json", "x" * 300])
def test_a_path_of_another_machine_or_user_is_a_name(name, folder, tmp_path, monkeypatch):
    from tests.unit.data_fixtures import make_config, write_source

    def stat(path, **options):  # root may look into every folder
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return os_stat(path, **options)

    os_stat = os.stat
    monkeypatch.setattr("os.stat", stat)
    dataset = {"dataset_folder": str(write_source(tmp_path / "x", [5], tokenizer=name)), "tokenizer_names": [name]}
    config = make_config([{"dataset": dataset}], tokenizer={"tokenizer_name_or_path": str(folder / "named")})
    open_mixture(config)
