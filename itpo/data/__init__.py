"""Real data of the three tasks: examples from local files or the hub, generated problems, and the comparison of answers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itpo.data.answers import answers_match, reference_answer
from itpo.data.formats import FORMATS, Example, RowError, check_example, problem
from itpo.data.rows import DataError, Row, read_rows, stem

__all__ = [
    "DataError",
    "Example",
    "FORMATS",
    "Loaded",
    "answers_match",
    "generate_gsm",
    "load_examples",
    "reference_answer",
    "split",
]

_GSM_SUFFIX = " Give the result as your final answer. Do not include units."


@dataclass(frozen=True)
class Loaded:
    """What a source gave.

    ``examples`` are in the order of the source; ``skipped`` are the bad rows that were left out, each with its file,
    row and reason; ``repeated`` counts the good rows left out because their prompt had been seen, or because they
    are a later turn of a conversation already here.
    """

    examples: tuple[Example, ...]
    skipped: tuple[DataError, ...]
    repeated: int


def load_examples(
    source: str | Path | None, format: str, *, part: str = "train", skip_bad: bool = False
) -> Loaded:
    """Read real data into examples, one for each conversation or problem.

    ``source`` is a local file (``.json``, ``.jsonl``, ``.ndjson``, ``.csv``, each also with ``.gz``, or ``.parquet``), a
    folder of them, or the name of a dataset on the hub; ``None`` is the hub dataset of the format. ``format`` is a name in
    ``FORMATS``. ``part`` chooses the split where a folder or a hub dataset has several. As for the released training set
    [C], each conversation keeps its first user message, and examples are de-duplicated by prompt: the first one stays.

    Raises :class:`DataError` with file, row and remedy for the first bad row, or, with ``skip_bad``, only where the
    source itself cannot be read or no good row is left. A row is bad, too, where it contradicts an earlier one: its id with
    another goal or reference, or its question with another reference. Raises ``ValueError`` for an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known formats: {', '.join(sorted(FORMATS))}")
    layout = FORMATS[format]
    if source is not None and not str(source).strip():
        raise DataError(
            "the source", None, "is an empty text", "pass a path or a name; None is the hub's dataset"
        )
    if source is None and layout.hub is None:
        raise DataError(
            format, None, "is not on the hub", "download its files and pass their path as the source"
        )
    config = layout.config if source in (None, layout.hub) else None
    examples: dict[str, Example] = {}
    prompts: set[tuple[object, ...]] = set()
    questions: dict[object, Example] = {}
    skipped: list[DataError] = []
    rows = 0
    for row in read_rows(source or layout.hub or "", part, config):
        rows += 1
        try:
            example = _example(row, format, examples, questions)
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(error)
            continue
        questions.setdefault(_question(example), example)
        if example.prompt not in prompts and example.id not in examples:
            prompts.add(example.prompt)
            examples[example.id] = example
    if not examples:
        cause = f"no row is good, the first because: {skipped[0]}" if skipped else "there are no rows"
        raise DataError(str(source or layout.hub), None, cause, "check the format and the source")
    return Loaded(tuple(examples.values()), tuple(skipped), rows - len(skipped) - len(examples))


def _example(
    row: Row, format: str, seen: Mapping[str, Example], questions: Mapping[object, Example]
) -> Example:
    """The example of a row; raises :class:`DataError` where it has none or contradicts one that was seen."""
    if isinstance(row.value, DataError):
        raise row.value
    try:
        example = FORMATS[format].read(row.value, f"{stem(row.where)}:{row.number}")
        check_example(example)
    except RowError as error:
        raise DataError(row.where, row.number, error.wrong, error.remedy) from error
    other = seen.get(example.id)
    if other is not None and (other.goal, other.reference) != (example.goal, example.reference):
        remedy = "give each its own id, or skip bad rows"
        raise DataError(row.where, row.number, f"the id {example.id!r} is that of another example", remedy)
    other = questions.get(_question(example))
    if other is not None and not _agree(other, example):
        wrong = f"contradicts {other.id!r}: the same question with another reference"
        raise DataError(row.where, row.number, wrong, "keep the right one of the two, or skip bad rows")
    return example


def _question(example: Example) -> object:
    """What has one right reference: a math problem, however it is opened, or else a goal with its prompt."""
    return example.goal if example.task == "math" else (example.goal, example.prompt)


def _agree(one: Example, other: Example) -> bool:
    """Whether the references of two examples are the same, as written or as the value of an answer."""
    if one.reference == other.reference or one.task != "math":
        return one.reference == other.reference
    return answers_match(other.reference["answer"], one.reference["answer"])


def split(
    examples: Sequence[Example], validation: float = 0.1, seed: int = 42
) -> tuple[list[Example], list[Example]]:
    """Divide examples at random into training and validation, as the released preparation script does [C].

    ``validation`` is the fraction of the second list, rounded up. Equal to ``train_test_split`` of the package
    ``datasets``, order included. Raises ``ValueError`` where either list would be empty.

    >>> train, held_out = split(generate_gsm(20, seed=0))
    >>> len(train), len(held_out)
    (18, 2)
    """
    held_out = math.ceil(validation * len(examples))
    if not 0 < held_out < len(examples):
        raise ValueError(
            f"a validation share of {validation} leaves {len(examples) - held_out} of {len(examples)} examples for "
            "training: pass a share between 0 and 1, and at least 2 examples"
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[held_out:]], [examples[i] for i in order[:held_out]]


def generate_gsm(count: int, seed: int) -> list[Example]:
    """Grade-school word problems in natural language, generated from templates (``gsm_symbolic`` of reasoning-gym).

    The same ``seed`` gives the same problems, and a larger ``count`` begins with those of a smaller one. Problems
    that repeat and those with a negative answer (an age of -1 years) are left out. Sets of two seeds share up to one
    problem in a hundred: for held-out problems :func:`split` one set. Raises ``ValueError`` where
    ``count`` is not positive or more than there are, ``ImportError`` if reasoning-gym is not installed.

    >>> example = generate_gsm(1, seed=0)[0]
    >>> example.task, answers_match(example.metadata["solution"], example.reference["answer"])
    ('math', True)
    """
    if count < 1:
        raise ValueError(f"count is {count}: ask for at least one problem")
    import reasoning_gym

    # The package seeds problem i with seed + i, so that neighbouring seeds would share problems.
    base = random.Random(f"gsm {seed}").getrandbits(48)
    generated = reasoning_gym.create_dataset("gsm_symbolic", size=2 * count + 100, seed=base)
    examples = list(itertools.islice(_distinct(iter(generated), seed), count))
    if len(examples) < count:
        raise ValueError(
            f"only {len(examples)} distinct problems were found, {count} were asked for: use several seeds"
        )
    return examples


def _distinct(entries: Iterable[dict], seed: int) -> Iterator[Example]:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        question = entry["question"].removesuffix(_GSM_SUFFIX)
        if question in seen or entry["answer"].startswith("-"):
            continue
        seen.add(question)
        yield problem(
            f"gsm:{seed}:{number}", question, entry["answer"], {"solution": entry["metadata"]["answer_cot"]}
        )
