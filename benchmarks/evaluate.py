"""One `zagreus evaluate` over k checkpoints beside the card's two `lm-eval` commands for each of them.

    python -m benchmarks.evaluate [--work DIR] [--checkpoints 7] [--limit 2] [--layers 32]

Makes k Hugging Face folders of the published shape (437,760,960 parameters in bf16; the weights are random and
shared, what is timed does not depend on them) and local copies of the three Portuguese data sets with self-made
questions. Both arms evaluate m_mmlu_pt with 5 shots, hellaswag_pt and arc_pt at batch size 1 on the CPU, the
second with the card's commands as they are but for model path, device and limit. Prints wall-clock and CPU
seconds and their ratio, and checks that the scores are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NUM_QUESTIONS = 40
_CARD_COMMANDS = (("m_mmlu_pt", "--num_fewshot", "5"), ("hellaswag_pt,arc_pt",))
_SUBJECTS = ("a fotossíntese", "o rio Amazonas", "a Revolução dos Cravos", "a tabela periódica", "o fado")


def main() -> None:
    """Run the benchmark; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for about 1 GB of files; default: a temporary one")
    parser.add_argument("--checkpoints", type=int, default=7)
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--layers", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zagreus-evaluate-", dir=arguments.work) as temporary:
        root = Path(temporary)
        make_data(root / "data")
        make_models(root / "models", arguments.checkpoints, arguments.layers)
        ours = run_ours(root, arguments.limit)
        theirs = run_lm_eval(root, arguments.limit)
        equal = scores_of(root / "ours") == scores_of(root / "theirs")
    figures = {
        "checkpoints": arguments.checkpoints,
        "limit": arguments.limit,
        "zagreus_evaluate_seconds": ours,
        "lm_eval_commands_seconds": theirs,
        "wall_ratio": round(theirs["wall"] / ours["wall"], 2),
        "cpu_ratio": round(theirs["cpu"] / ours["cpu"], 2),
        "scores_equal": equal,
    }
    print(json.dumps(figures, indent=1))


def make_models(folder: Path, num_checkpoints: int, num_layers: int) -> None:
    """Write the model once, and the other checkpoints as links to its files."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<bos>", "<eos>"], show_progress=False)
    tokenizer.train_from_iterator([str(question(number)) for number in range(400)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128256, hidden_size=960, intermediate_size=2560, num_hidden_layers=num_layers,
        num_attention_heads=15, num_key_value_heads=5, max_position_embeddings=4096, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    steps = [str(5000 * (index + 1)) for index in range(num_checkpoints)]
    first = folder / steps[0]
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(first)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>").save_pretrained(first)
    for step in steps[1:]:
        shutil.copytree(first, folder / step, copy_function=os.link)


def question(number: int) -> dict[str, Any]:
    """Return a self-made question with four options."""
    subject = _SUBJECTS[number % len(_SUBJECTS)]
    return {
        "id": str(number),
        "instruction": f"No texto de número {number}, que trata sobretudo d{subject}, o que se afirma primeiro?",
        **{f"option_{letter}": f"que {subject} vem {place + number % 3} vezes" for place, letter in enumerate("abcd")},
        "answer": "ABCD"[number % 4],
    }


def make_data(folder: Path) -> None:
    """Write copies of the three data sets in the form that the hub has them in."""
    questions = [question(number) for number in range(_NUM_QUESTIONS)]
    endings = [
        {
            "ind": number,
            "activity_label": "Leitura",
            "ctx_a": f"Alguém abre o livro na página {number}.",
            "ctx_b": "depois",
            "ctx": f"Alguém abre o livro na página {number}. depois",
            "endings": [f"lê em voz alta sobre {subject}" for subject in _SUBJECTS[:4]],
            "label": str(number % 4),
        }
        for number in range(_NUM_QUESTIONS)
    ]
    fifths = [{**row, "option_e": None} for row in questions]
    write_copy(folder / "alexandrainst/m_mmlu", {"train": questions[:8], "test": questions[8:]})
    write_copy(folder / "alexandrainst/m_hellaswag", {"val": endings})
    write_copy(folder / "alexandrainst/m_arc", {"train": fifths[:8], "validation": fifths[:8], "test": fifths[8:]})


def write_copy(dataset: Path, splits: dict[str, Sequence[dict[str, Any]]]) -> None:
    """Write the data set's Portuguese part and the card that says where its splits are."""
    (dataset / "pt").mkdir(parents=True)
    card = ["---", "configs:", "- config_name: pt", "  data_files:"]
    for split, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (dataset / "pt" / f"{split}.jsonl").write_text(text, encoding="utf-8")
        card += [f"  - split: {split}", f"    path: pt/{split}.jsonl"]
    (dataset / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")


def run_ours(root: Path, limit: int) -> dict[str, float]:
    """Evaluate all checkpoints in one process."""
    command = [sys.executable, "-c", "from nanotron_zagreus.cli.app import main; main()", "evaluate"]
    command.append(str(root / "models"))
    options = ["--suite", "progression-por", "--data", str(root / "data"), "--output", str(root / "ours")]
    return timed([[*command, *options, "--limit", str(limit), "--batch-size", "1", "--device", "cpu"]], root)


def run_lm_eval(root: Path, limit: int) -> dict[str, float]:
    """Run the card's commands for every checkpoint, in the folder of the data."""
    commands = []
    for model in sorted((root / "models").iterdir()):
        for tasks, *shots in _CARD_COMMANDS:
            command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}"]
            command += ["--tasks", tasks, *shots, "--device", "cpu", "--batch_size", "1", "--limit", str(limit)]
            commands.append([*command, "--output_path", str(root / "theirs")])
    return timed(commands, root / "data")


def timed(commands: Sequence[Sequence[str]], folder: Path) -> dict[str, float]:
    """Run the commands one after the other in ``folder``; return their wall-clock and CPU seconds.

    With a cache of their own: `datasets` would take copies of the same relative path, made elsewhere, for these.
    """
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / ".cache")}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(end - begin, 1), "cpu": round(cpu, 1)}


def scores_of(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return the scores in a folder of results, by the checkpoint's name and the task."""
    from nanotron_zagreus.evaluation.results import read_results

    return {(result.label, result.task): dict(result.scores) for result in read_results(folder)}


if __name__ == "__main__":
    main()
