"""From text to an evaluated model on two CPU cores: `make demo`, or `python -m examples.demo.run_demo`.

Everything lands in `demo_output/` of the current folder. The steps are those of a real run, and so are the
commands; each is printed before it runs. A rerun keeps the finished steps.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

from rich.console import Console

from examples.demo.corpus import LANGUAGES, build_corpus
from examples.demo.held_out import write_word_order_questions
from examples.demo.report import check_learnt, measure_losses, print_report
from examples.demo.steps import Commands, Journal, Step, run_steps
from nanotron_zagreus.config import Config, load_config
from nanotron_zagreus.errors import InputError, WorkError

ROOT = Path(__file__).parents[2]
CONFIG_FILE = ROOT / "configs" / "smollm2" / "zagreus_tiny.yaml"
TASKS = ROOT / "examples" / "demo" / "tasks"
# A model of this size has learnt the words and the turns of its corpus, and nothing of what they mean.
PROMPTS = {
    "english": "If the file does not exist, the",
    "portuguese": "E o homem, que não",
    "code": "class Reader:\n    def __init__(self",
}


class Demo:
    """The steps, for one configuration and one folder to work in."""

    def __init__(self, config_file: Path, folder: Path, console: Console) -> None:
        self.config_file, self.folder, self.console = config_file, folder, console
        self.config: Config = load_config(config_file)
        self.output = folder / "demo_output"
        self.commands = Commands(folder, console)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer that the demo trains."""
        return self.output / "tokenizer"

    @property
    def final_checkpoint(self) -> Path:
        """The step folder that training ends with."""
        return self.folder / self.config.checkpoints.checkpoints_path / str(self.config.tokens.train_steps)

    def steps(self) -> list[Step]:
        """Return the whole demo, in order."""
        ranks = self.config.parallelism.world_size
        return [
            Step("corpus", "Collect text in English, Portuguese and Python", self.collect),
            Step("tokenizer", "Train a tokenizer on it", self.train_tokenizer),
            Step("tokenize", "Turn the text into shards of tokens", self.tokenize),
            Step("check", "Check the configuration before anything starts", self.check),
            Step("train", f"Train on {ranks} processes", self.train),
            Step("convert", "Make a Hugging Face folder of the last checkpoint", self.convert),
            Step("generate", "Complete a prompt in each language", self.generate),
            Step("evaluate", "Evaluate on text the model has not seen", self.evaluate),
            Step("progression", "Evaluate every checkpoint of the training", self.show_progression),
        ]

    def collect(self) -> None:
        """Write the text for training, the text held out, and the questions made of the latter."""
        for language, num_bytes in build_corpus(self.output).items():
            self.console.print(f"{language}: {num_bytes:,} bytes for training")
        for language in ("english", "portuguese"):
            questions = self.output / "questions" / f"{language}.jsonl"
            count = write_word_order_questions(self.output / "held_out" / f"{language}.jsonl", questions)
            self.console.print(f"{language}: {count} questions about the order of words, from held-out text")

    def train_tokenizer(self) -> None:
        """Train the tokenizer that the configuration's vocabulary asks for."""
        from examples.demo.tokenizer_training import train_tokenizer

        model = self.config.model.model_config
        files = [self.output / "text" / f"{language}.jsonl" for language in LANGUAGES]
        train_tokenizer(files, self.tokenizer, vocab_size=model.vocab_size, max_length=model.max_position_embeddings)
        self.console.print(f"{model.vocab_size:,} entries: {self.commands.show(self.tokenizer)}")

    def tokenize(self) -> None:
        """Make one source of shards per language, each document between its begin and end tokens."""
        for language in LANGUAGES:
            text, shards = self.output / "text" / f"{language}.jsonl", self.output / "tokenized" / language
            self.commands.run(
                "zagreus", "tokenize", "--input", text, "--output", shards, "--tokenizer", self.tokenizer,
                "--bos", "--eos",
            )  # fmt: skip

    def check(self) -> None:
        """Print the plan of the run."""
        self.commands.run("zagreus", "check", "--config-file", self.config_file)

    def train(self) -> None:
        """Train from the first step, or from the newest checkpoint of an interrupted run."""
        ranks = self.config.parallelism.world_size
        self.commands.run(
            "torchrun", "--standalone", f"--nproc_per_node={ranks}", ROOT / "run_train.py",
            "--config-file", self.config_file,
        )  # fmt: skip
        if not self.final_checkpoint.is_dir():
            # A run that is asked to stop saves and ends well.
            raise WorkError("training stopped after saving, before its last step; run `make demo` again to go on")

    def convert(self) -> None:
        """Convert and verify the last checkpoint."""
        self.commands.run(
            "zagreus", "convert", self.final_checkpoint, self.output / "hf", "--tokenizer", self.tokenizer
        )

    def generate(self) -> None:
        """Complete one prompt per language."""
        prompts = [word for prompt in PROMPTS.values() for word in ("--prompt", prompt)]
        self.commands.run(
            "zagreus", "generate", self.output / "hf", *prompts, "--max-new-tokens", "60", "--temperature", "0.5"
        )

    def evaluate(self) -> None:
        """Run lm-eval on the demo's own tasks."""
        self._evaluate(self.output / "hf", "--output", self.output / "results")

    def show_progression(self) -> None:
        """Evaluate the checkpoints, and show how their scores develop in a table and a plot."""
        results, plot = self.output / "progression", self.output / "progression.png"
        checkpoints = self.folder / self.config.checkpoints.checkpoints_path
        self._evaluate(checkpoints, "--tokenizer", self.tokenizer, "--output", results, "--no-keep-converted")
        self.commands.run("zagreus", "progress", results, "--plot", plot)

    def _evaluate(self, models: Path, *options: str | Path) -> None:
        tasks = sorted(path.stem for path in TASKS.glob("*.yaml"))
        self.commands.run(
            "zagreus", "evaluate", models, "--tasks", ",".join(tasks), "--include-path", TASKS, *options
        )  # fmt: skip


def fingerprint(config_file: Path) -> str:
    """Return a hash of everything the demo's output depends on, the installed packages excepted."""
    digest = hashlib.sha256(platform.python_version().encode())
    for path in [config_file, *sorted((ROOT / "examples" / "demo").rglob("*"))]:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def main(arguments: list[str]) -> int:
    """Run the demo; the first argument may name another configuration file than the shipped one."""
    console = Console()
    config_file = Path(arguments[0]).resolve() if arguments else CONFIG_FILE
    try:
        demo = Demo(config_file, Path.cwd(), console)
        journal = Journal.open(demo.output, fingerprint(config_file), console)
        run_steps(demo.steps(), journal, console)
        print_report(demo.config, demo.folder, journal.seconds, console)
        if config_file == CONFIG_FILE:
            # Another file, perhaps a few steps long, promises nothing.
            check_learnt(measure_losses(demo.config, demo.folder))
    except (InputError, WorkError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
