"""Seconds to load 10,000 rows in each format: ``python -m benchmarks.loading [--rows 10000]``.

Writes files of made-up rows to a temporary folder. Beside seconds and rows a second it prints the time as a multiple of a
bare read of the same file in the same process (``json`` or ``pyarrow``, no checks and no examples), which does not depend on
how busy the machine is.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

from itpo.data import load_examples

REPEATS = 3
_FILLER = "some words that make a row about as long as a real one " * 10


def collabllm(i: int) -> dict[str, Any]:
    """A conversation of the length that CollabLLM's rows have."""
    talk = [{"role": role, "content": f"{i} {_FILLER}"} for role in ("user", "assistant", "user")]
    return {
        "prompt": talk,
        "completion": _FILLER,
        "conv_id": i,
        "single_turn_prompt": f"{i} {_FILLER}",
        "single_turn_completion": f"{_FILLER} \\boxed{{{i}}}",
        "single_turn_metadata": {"level": "Level 5"},
    }


def mtmeddialog(i: int) -> dict[str, Any]:
    """A consultation of six questions."""
    turns = [{"doctor_question": [_FILLER[:100]], "patient_response": [_FILLER[:100]]}] * 6
    truth = {"diagnosis": _FILLER[:100], "recommendation": _FILLER[:200]}
    return {
        "prompt": [
            {"role": "system", "content": _FILLER},
            {"role": "user", "content": f"{i} {_FILLER[:100]}"},
        ],
        "reward_model": {"ground_truth": truth, "patient_information": turns},
        "extra_info": {"index": i},
    }


def gsm8k(i: int) -> dict[str, Any]:
    """A short word problem."""
    return {"question": f"{i} {_FILLER[:250]}", "answer": f"{_FILLER[:250]}\n#### {i}"}


ROWS = {"collabllm-math": collabllm, "mtmeddialog": mtmeddialog, "gsm8k": gsm8k}
READS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_bytes()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_bytes().splitlines()],
    ".parquet": lambda path: parquet.read_table(path).to_pylist(),
    ".csv": lambda path: list(csv.DictReader(path.open(newline="", encoding="utf-8"))),
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the format that the ending says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False)


def seconds(call: Callable[[], Any]) -> float:
    """The shortest of ``REPEATS`` calls."""
    laps = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        laps.append(time.perf_counter() - start)
    return min(laps)


def measure(format: str, path: Path, count: int) -> dict[str, Any]:
    """One line of the table; the file is written first."""
    write(path, [ROWS[format](i) for i in range(count)])
    loaded = load_examples(path, format)
    assert len(loaded.examples) == count
    bare, ours = seconds(lambda: READS[path.suffix](path)), seconds(lambda: load_examples(path, format))
    megabytes = path.stat().st_size / 1e6
    return {
        "format": format,
        "file": path.suffix,
        "MB": megabytes,
        "seconds": ours,
        "rows/s": count / ours,
        "x bare read": ours / bare,
    }


def main() -> None:
    """Measure every format and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="rows a file (default: %(default)s)")
    count = parser.parse_args().rows
    pairs = [(format, ending) for format in ROWS for ending in READS if ending != ".csv" or format == "gsm8k"]
    with tempfile.TemporaryDirectory() as folder:
        table = [measure(format, Path(folder) / f"rows{ending}", count) for format, ending in pairs]
    print(pd.DataFrame(table).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
