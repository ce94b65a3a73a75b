"""Measure `zagreus tokenize` against datatrove's own pipeline: the same text, tokenizer and output, in pairs.

    python -m benchmarks.tokenization --work /tmp/bench [--pairs 3]

Every run is a fresh process that imports and opens everything, waits for the word to go, and then reads
parquet and writes shards. Rates are per second of wall clock and per second of CPU; other load on the machine
moves the former more. Where two tasks run at a time each does all that the one task did. Needs `pip install
gigatoken` for the fast arm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

NUM_FILES = 8
ARMS = ("reference", "gigatoken", "tokenizers")
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for text, tokenizer and output; kept")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options)
        return
    text = write_parquet(options.work)
    compare_bytes(options.work, text)
    pairs = [
        {arm: {n: measure(options.work, text, arm, n) for n in (1, 2)} for arm in ARMS} for _ in range(options.pairs)
    ]
    report(pairs)
    for name, folder in write_extremes(options.work).items():
        report_extreme(name, folder, measure(options.work, folder, "gigatoken", 1))


def write_parquet(work: Path) -> Path:
    """Return a folder of parquet files of about equal size; made the first time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.corpus import build_corpus, build_tokenizer

    folder = work / "text"
    if not folder.is_dir():
        documents = build_corpus(work)
        build_tokenizer(work, documents)
        aside = work / "text.partial"
        aside.mkdir(parents=True, exist_ok=True)
        for number in range(NUM_FILES):
            part = documents[number::NUM_FILES]
            table = pa.table({"text": part, "id": [f"{number}/{row}" for row in range(len(part))]})
            pq.write_table(table, aside / f"{number}.parquet")
        aside.rename(folder)
    return folder


def write_extremes(work: Path) -> dict[str, Path]:
    """Return folders with one document of 100 MB, and with a million tiny ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.corpus import build_corpus

    folders = {"one document of 100 MB": work / "huge", "1M tiny documents": work / "tiny"}
    if not all(folder.is_dir() for folder in folders.values()):
        whole = "\n\n".join(build_corpus(work))[: int(100 * MB)]
        tiny = [whole[start : start + 40] for start in range(0, 40_000_000, 40)]
        for folder, texts in zip(folders.values(), ([whole], tiny), strict=True):
            folder.mkdir(exist_ok=True)
            pq.write_table(pa.table({"text": texts}), folder / "0.parquet")
    return folders


def measure(work: Path, text: Path, arm: str, num_tasks: int) -> dict[str, Any]:
    """Run ``num_tasks`` processes of ``arm`` at the same time, over the same text; return their rates together."""
    shutil.rmtree(work / "out" / arm, ignore_errors=True)
    command = [sys.executable, __file__, "--work", str(work), "--arm", arm, "--input", str(text)]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, "--task", str(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for task in range(num_tasks)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    start = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate()[0]) for process in processes]
    seconds = max(result["finished"] for result in results) - start
    tokens, cpu = sum(result["tokens"] for result in results), sum(result["cpu_seconds"] for result in results)
    megabytes = num_tasks * text_bytes(files_of(text)) / MB
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / cpu,
        "megabytes_per_second": megabytes / seconds,
        "megabytes": megabytes,
        "peak_mb": max(result["peak_mb"] for result in results),
        "ready_mb": max(result["ready_mb"] for result in results),
    }


def run_arm(options: argparse.Namespace) -> None:
    """Do one task of one arm in this process, when told to go."""
    reader, writer, write = reference_steps(options) if options.arm == "reference" else our_steps(options)
    import pyarrow.parquet  # noqa: F401 - what a task imports is not measured

    ready_mb = peak_mb()
    print("ready", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    write(reader.run(None, 0, 1), 0, 1)
    cpu, finished = time.process_time() - cpu, time.perf_counter()
    result = {
        "tokens": writer.stats.stats["tokens"].total,
        "cpu_seconds": cpu,
        "finished": finished,  # by a clock that all processes of a machine share
        "peak_mb": peak_mb(),
        "ready_mb": ready_mb,
    }
    print(json.dumps(result))


def reference_steps(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return datatrove's reader and tokenizer, loaded, and the function that runs the latter."""
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    paths = options.work / "out" / f"reference_files_{options.task}"
    paths.parent.mkdir(parents=True, exist_ok=True)
    paths.write_text("\n".join(path.name for path in files_of(options.input)))
    writer = DocumentTokenizer(
        str(options.work / "out" / "reference" / f"task_{options.task}"),
        tokenizer_of(options.work),
        shuffle_documents=False,
    )
    assert writer.tokenizer is not None  # loads it
    return ParquetReader(str(options.input), paths_file=str(paths)), writer, writer.run


def our_steps(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return the same of ours, planned as the command plans them, the encoder proven on its hard cases."""
    from nanotron_zagreus.data.encoders import make_encoder
    from nanotron_zagreus.data.tokenization import make_pipeline
    from nanotron_zagreus.data.tokenization_plan import TokenizationJob, prepare

    files = tuple(str(path) for path in files_of(options.input))
    output = options.work / "out" / options.arm / f"task_{options.task}"
    prepared = prepare(
        TokenizationJob(
            inputs=files,
            output=output,
            tokenizer=tokenizer_of(options.work),
            num_tasks=1,
            encoder=options.arm,
        )
    )
    reader, writer = make_pipeline(prepared)
    encoder = make_encoder(prepared.choice, options.arm, seed=0, parallel=False)
    return reader, writer, lambda data, rank, tasks: writer.write(data, encoder, rank)


def files_of(folder: Path) -> list[Path]:
    """Return the files that every task of every arm reads."""
    return sorted(folder.glob("*.parquet"))


@cache
def _bytes_of(path: Path) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return pc.sum(pc.binary_length(pq.read_table(path, columns=["text"])["text"])).as_py()


def text_bytes(files: list[Path]) -> int:
    """Return the UTF-8 bytes of the text in ``files``."""
    return sum(map(_bytes_of, files))


def tokenizer_of(work: Path) -> str:
    """Return the path of the benchmark's tokenizer."""
    return str(work / "tokenizer" / "tokenizer.json")


def peak_mb() -> float:
    """Return the highest resident memory of this program so far, in MB.

    Not from getrusage, which starts with the memory of the parent that was forked.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / MB


def compare_bytes(work: Path, text: Path) -> None:
    """Stop unless all arms write the same bytes for the same files."""
    small = work / "small"
    small.mkdir(exist_ok=True)
    for path in sorted(text.glob("*.parquet"))[:1]:
        shutil.copy(path, small / path.name)
    for arm in ARMS:
        measure(work, small, arm, 1)
    found = [{path.name: path.read_bytes() for path in sorted((work / "out" / arm).rglob("*.ds*"))} for arm in ARMS]
    assert found[0] and found[0] == found[1] == found[2], "the arms wrote different bytes"
    print(f"{len(found[0])} files of {sum(map(len, found[0].values())):,} bytes: identical in all arms")


def report(pairs: list[dict[str, dict[int, dict[str, Any]]]]) -> None:
    """Print the medians of all pairs, and of their ratios with their ranges."""
    print(f"\n{len(pairs)} pairs, medians; x: ratio to the reference of the same pair, by wall clock and by CPU time")
    print("| arm | MB/s | ktok/s | ktok/s of CPU | peak MB | x (wall) | x (CPU) | 2 tasks / 1 (wall) | 2 / 1 (CPU) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm in ARMS:
        columns = list(zip(*(row_of(pair, arm) for pair in pairs), strict=True))
        cells = [f"{statistics.median(column):,.{digits}f}" for column, digits in zip(columns, DIGITS, strict=True)]
        ranges = [f" ({min(column):.2f} to {max(column):.2f})" for column in columns[-NUM_RATIOS:]]
        cells[-NUM_RATIOS:] = map("".join, zip(cells[-NUM_RATIOS:], ranges, strict=True))
        print(f"| {arm} | {' | '.join(cells)} |")


DIGITS = (1, 0, 0, 0, 2, 2, 2, 2)
NUM_RATIOS = 4


def row_of(pair: dict[str, dict[int, dict[str, Any]]], arm: str) -> tuple[float, ...]:
    """Return the figures of one arm in one pair."""
    one, two, reference = pair[arm][1], pair[arm][2], pair["reference"][1]
    wall, cpu = "tokens_per_second", "tokens_per_cpu_second"
    return (
        one["megabytes_per_second"],
        one[wall] / 1e3,
        one[cpu] / 1e3,
        one["peak_mb"],
        one[wall] / reference[wall],
        one[cpu] / reference[cpu],
        two[wall] / one[wall],
        2 * two[cpu] / one[cpu],
    )


def report_extreme(name: str, folder: Path, result: dict[str, Any]) -> None:
    added = result["peak_mb"] - result["ready_mb"]
    print(
        f"{name}: {result['megabytes']:.0f} MB at {result['megabytes_per_second']:.1f} MB/s, {added:.0f} MB of memory, "
        f"{added / result['megabytes']:.1f} times the text, above the {result['ready_mb']:.0f} MB of a task that has "
        "read nothing"
    )


if __name__ == "__main__":
    main()
