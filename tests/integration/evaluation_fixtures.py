"""Tiny random models and self-made Portuguese data in the form of the twelve Portuguese tasks' data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nanotron_zagreus.evaluation.shots import listed_ids

LEADERBOARD = (
    "assin2_rte",
    "assin2_sts",
    "bluex",
    "enem_challenge",
    "faquad_nli",
    "hatebr_offensive",
    "oab_exams",
    "portuguese_hate_speech",
    "tweetsentbr",
)

_FRUIT = ("a banana", "o caju", "a laranja", "o mamão", "a uva", "o limão", "a pera")
_PLACE = ("na feira", "no quintal", "na cozinha", "no mercado", "na praça")
_SENTIMENTS = ("Positive", "Negative", "Neutral")


def sentence(number: int) -> str:
    """Return a short Portuguese sentence, another one for every number."""
    fruit, place = _FRUIT[number % len(_FRUIT)], _PLACE[number % len(_PLACE)]
    return f"O menino {number} comprou {fruit} {place}."


def exam(name: str, number: int, letters: str = "ABCDE") -> dict[str, Any]:
    """Return an exam question called ``name``."""
    return {
        "id": name,
        "exam_id": "2022",
        "question": f"O que comprou o menino {number}?",
        "choices": {"text": [_FRUIT[(number + shift) % len(_FRUIT)] for shift in range(len(letters))],
                    "label": list(letters)},
        "answerKey": letters[number % len(letters)],
    }  # fmt: skip


def pair(number: int) -> dict[str, Any]:
    """Return a pair of ASSIN 2."""
    return {
        "sentence_pair_id": number,
        "premise": sentence(number),
        "hypothesis": sentence(number + 1),
        "relatedness_score": 1.0 + (number % 9) / 2,
        "entailment_judgment": number % 2,
    }


def answer(number: int) -> dict[str, Any]:
    """Return a question and answer of FaQuAD NLI."""
    return {"question": f"Onde está o menino {number}?", "answer": sentence(number), "label": number % 2}


def comment(number: int) -> dict[str, Any]:
    """Return a comment of HateBR or Portuguese Hate Speech."""
    return {"idx": number, "sentence": sentence(number), "label": number % 2}


def tweet(number: int) -> dict[str, Any]:
    """Return a tweet of TweetSentBR."""
    return {"sentence": sentence(number), "label": _SENTIMENTS[number % 3]}


def leaderboard_rows(num_documents: int = 6) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the rows of every (data set/config, split); the shots stand there in scrambled order."""
    new = range(9000, 9000 + num_documents)
    enem, bluex, oab = (sorted(ids, reverse=True) for ids in map(listed_ids, ("enem", "bluex", "oab")))
    return {
        ("eduagarcia/enem_challenge", "train"): [exam(name, i) for i, name in enumerate(enem)]
        + [exam(f"2023_{i}", i) for i in new],
        ("eduagarcia-temp/BLUEX_without_images", "train"): [exam(name, i) for i, name in enumerate(bluex)]
        + [exam(f"USP_2023_{i}", i) for i in new],
        ("eduagarcia/oab_exams", "train"): [exam(name, i, "ABCD") for i, name in enumerate(oab)]
        + [exam(f"2011-01_{i}", i, "ABCD") for i in new],
        ("nilc-nlp/assin2", "train"): [pair(i) for i in sorted(listed_ids("assin2"))],
        ("nilc-nlp/assin2", "test"): [pair(i) for i in new],
        ("ruanchaves/faquad-nli", "train"): [answer(i) for i in range(max(listed_ids("faquad")) + 1)],
        ("ruanchaves/faquad-nli", "test"): [answer(i) for i in new],
        ("eduagarcia/portuguese_benchmark/HateBR_offensive_binary", "train"): [
            comment(i) for i in sorted(listed_ids("hatebr"))
        ],
        ("eduagarcia/portuguese_benchmark/HateBR_offensive_binary", "test"): [comment(i) for i in new],
        ("eduagarcia/portuguese_benchmark/Portuguese_Hate_Speech_binary", "train"): [
            comment(i) for i in sorted(listed_ids("hate_speech"))
        ],
        ("eduagarcia/portuguese_benchmark/Portuguese_Hate_Speech_binary", "test"): [comment(i) for i in new],
        ("eduagarcia/tweetsentbr_fewshot", "train"): [tweet(i) for i in range(30)],
        ("eduagarcia/tweetsentbr_fewshot", "test"): [tweet(i) for i in new],
    }


def progression_rows(num_documents: int = 6, code: str = "pt") -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the rows of the three okapi data sets."""
    letters = "abcd"

    def choice(number: int) -> dict[str, Any]:
        options = {f"option_{letter}": _FRUIT[(number + i) % len(_FRUIT)] for i, letter in enumerate(letters)}
        question = f"O que comprou o menino {number}?"
        return {"id": str(number), "instruction": question, **options, "answer": "ABCD"[number % 4]}

    def ending(number: int) -> dict[str, Any]:
        return {
            "ind": number,
            "activity_label": "Compras",
            "ctx_a": sentence(number),
            "ctx_b": "ele",
            "ctx": sentence(number) + " ele",
            "endings": [f"vai {place}" for place in _PLACE[:4]],
            "label": str(number % 4),
        }

    questions = [choice(i) for i in range(num_documents)]
    arc = [{**row, "option_e": None} for row in questions]
    return {
        (f"alexandrainst/m_mmlu/{code}", "train"): [choice(i) for i in range(100, 108)],
        (f"alexandrainst/m_mmlu/{code}", "test"): questions,
        (f"alexandrainst/m_hellaswag/{code}", "val"): [ending(i) for i in range(num_documents)],
        (f"alexandrainst/m_arc/{code}", "train"): arc,
        (f"alexandrainst/m_arc/{code}", "validation"): arc,
        (f"alexandrainst/m_arc/{code}", "test"): arc,
    }


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write ``rows`` as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(folder: Path, rows: dict[tuple[str, str], list[dict[str, Any]]]) -> Path:
    """Write every split in the plain layout that `--data` takes."""
    for (dataset, split), documents in rows.items():
        write_rows(folder / dataset / f"{split}.jsonl", documents)
    return folder


def write_hub_card(dataset: Path, splits: dict[str, Sequence[str]]) -> None:
    """Write the README that turns a folder of JSON lines into a copy of a hub repository.

    Args:
        dataset: the data set's folder.
        splits: names of its splits, by config; the config ``default`` has its files at the top.
    """
    lines = ["---", "configs:"]
    for config, names in splits.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        prefix = "" if config == "default" else f"{config}/"
        lines += [line for name in names for line in (f"  - split: {name}", f"    path: {prefix}{name}.jsonl")]
    (dataset / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def write_tiny_model(
    folder: Path, *, seed: int = 0, context: int = 1024, texts: Sequence[str] = (), chat_template: str | None = None
) -> Path:
    """Write a random Llama of a few thousand parameters with a tokenizer made for ``texts``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or [sentence(i) for i in range(40)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = chat_template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
