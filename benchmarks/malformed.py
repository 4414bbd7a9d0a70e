"""Settings and rows that make no sense, for :mod:`benchmarks.faults`: each with its outcome, and the text of its error."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from itpo.config import RunConfig, from_json
from itpo.data import DataError, load_examples
from itpo.runs.files import plain
from itpo.specs import ALL

_VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    2**70,
    1e400,
    float("nan"),
    -0.5,
    1e-300,
    "",
    " ",
    "x\ud800",
    "a:b",
    "../x",
)
_VALUES += (
    b"x",
    True,
    [],
    (),
    {},
    {"a": object()},
    {1: 2},
    object(),
    RunConfig,
    lambda: 0,
    "__main__:x",
    "\0",
    "𝟙",
)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def malformed_settings(whole: RunConfig, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Give every field of every specification a value that may make no sense: refused by the field's name, or kept whole."""
    specs = [whole, whole.method, whole.estimator, whole.task]
    specs += [spec() for spec in ALL if all(_has_default(field) for field in dataclasses.fields(spec))]
    fields = [(spec, field.name) for spec in specs for field in dataclasses.fields(spec)]
    for index in count():
        spec, name = fields[index % len(fields)]
        value = rng.choice(_VALUES)
        what = f"{type(spec).__name__}.{name} = {str(value)[:40]!a}"
        try:
            changed = replace(spec, **{name: value})
            kept = from_json(json.loads(json.dumps(plain(changed, "config"))))
            outcome, text = "recovered" if kept == changed else "silent", ascii(kept)
        except (ValueError, TypeError) as error:
            outcome, text = "refused" if str(error) else "unclear", str(error)
        except Exception as error:
            outcome, text = "unclear", f"{type(error).__name__}: {error}"
        yield what, outcome, text


_ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "sam has 2 pens and gets 3 more . how many ?", "answer": "2 + 3 = 5 #### 5"},
    "collabllm-math": {
        "conv_id": 1,
        "prompt": [{"role": "user", "content": "sam has some pens"}],
        "single_turn_prompt": "sam has 2 pens and gets 3 more . how many ?",
        "single_turn_completion": "the answer is $\\boxed{5}$",
    },
}


def malformed_rows(place: Path, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Change one field of a good row, or its line, beside a row that is good."""
    for index in count():
        layout = list(_ROWS)[index % len(_ROWS)]
        good, path = _ROWS[layout], place / f"rows-{layout}.jsonl"
        row: dict[str, Any] = {**good, "conv_id": 2} if "conv_id" in good else dict(good)
        key, value = rng.choice(list(row)), rng.choice(_VALUES)
        with suppress(TypeError):
            json.dumps(value)
            row[key] = value
        line = json.dumps(row)
        if index % 3 == 0:
            line = line[: rng.randrange(len(line))] + "[" * rng.choice((0, 1, 99999))
        path.write_text(f"{json.dumps(good)}\n{line}\n", encoding="utf-8")
        try:
            loaded = load_examples(path, layout)
            outcome, text = "recovered" if loaded.examples else "silent", ""
            json.dumps([plain(example, "e") for example in loaded.examples], ensure_ascii=False).encode()
        except DataError as error:
            outcome, text = "refused", str(error)
        except Exception as error:
            outcome, text = "unclear", f"{type(error).__name__}: {error}"
        yield f"{layout}: {line[:80]!a}", outcome, text
