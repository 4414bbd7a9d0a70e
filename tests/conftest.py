"""Set-up shared by all tests.

The shapes written in the signatures of itpo are checked while tests run: `--jaxtyping-packages` in
pyproject.toml installs the import hook before this file is loaded. Tests of our own error messages switch
the checks off with `unchecked`.
"""

import io
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from method_fixtures import _unchecked, batches, unchecked  # noqa: F401  (the fixtures, for all)
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from itpo.figures.style import use_style
from itpo.models.backbone import Backbone
from itpo.models.tiny import build_tokenizer, load, pretrain_by_imitation, scripted_dialogue
from itpo.runs.store import Run, Store
from itpo.specs import Adapter, TinyLM
from itpo.study.profiles import Profile, get_profile
from itpo.tasks.registry import get_task

# Big enough to end its turns and to hold a conversation, small enough to be trained in a few seconds.
TINY = TinyLM(hidden_size=32, layers=2, heads=4, steps=80, dialogues_per_step=16)
RANK, ALPHA = 4, 8


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the math task that imitated its noisy expert, saved with its tokenizer."""
    task = get_task("math")
    with _unchecked():
        return pretrain_by_imitation(task, task.noisy_expert, TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def prose_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights whose tokenizer knows the words of the math task in ordinary writing."""
    task = get_task("math_prose")
    params = (task.expert, task.noisy_expert)
    dialogues = [scripted_dialogue(task, params[seed % 2], random.Random(seed))[1] for seed in range(3000)]
    words = sorted({w for dialogue in dialogues for message in dialogue for w in message.content.split()})
    tokenizer = build_tokenizer(words)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **ends))
    folder = tmp_path_factory.mktemp("prose")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shake(backbone: Backbone, name: str, seed: int, scale: float = 0.3) -> None:
    """Move every weight of an adapter, LoRA-B included, so that it computes something of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters(name).values():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.fixture
def make_backbone(tiny_folder: Path) -> Callable[..., Backbone]:
    """Builds a backbone on the tiny model with a policy and a PRM, both shaken unless ``fresh``."""

    def make(fresh: bool = False, names: tuple[str, ...] = ("policy", "prm"), **options: Any) -> Backbone:
        backbone = Backbone(load(tiny_folder)[0], names, Adapter(RANK, ALPHA), **options)
        for number, name in enumerate(() if fresh else names):
            shake(backbone, name, seed=number)
        return backbone

    return make


@pytest.fixture
def plain_model(tiny_folder: Path) -> Callable[..., Any]:
    """Builds what a backbone should compute, without peft: a fresh base with W + alpha / r B A written into its weights."""

    def make(backbone: Backbone | None = None, name: str | None = None) -> Any:
        model = load(tiny_folder)[0]
        if backbone is not None and name is not None:
            adapter = backbone.parameters(name)
            for key, a in adapter.items():
                if ".lora_A." not in key:
                    continue
                b = adapter[key.replace(".lora_A.", ".lora_B.")]
                target = model.get_parameter(key.partition(".lora_A.")[0] + ".weight")
                target.data += ALPHA / RANK * (b @ a).detach()
        return model.requires_grad_(False)

    return make


@pytest.fixture
def mean_outcome() -> Callable[[str, Any, int], float]:
    """Mean outcome of a task's scripted policy with these params, over so many dialogues."""

    def measure(name: str, params: Any, count: int) -> float:
        task = get_task(name)
        return sum(scripted_dialogue(task, params, random.Random(i))[2] for i in range(count)) / count

    return measure


@pytest.fixture
def check_testbed() -> Callable[[str], None]:
    """Runs ``python -m itpo check``: real base model, real training; loaded from the checkout's store where they are there.

    In a process of its own, for the shape checks of this one would take longer than the training. Of 500 dialogues, which put
    the rarest of the figures (0.09, at least 0.05) two standard errors inside its range, and take a quarter of the usual 2000.
    """

    def check(task: str) -> None:
        command = [sys.executable, "-m", "itpo", "check", task, "--dialogues", "500"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        lines = result.stdout.splitlines()
        assert result.returncode == 0, result.stdout + result.stderr
        assert len(lines) == 9 and all(line.startswith("pass ") for line in lines), result.stdout

    return check


# Runs written by hand, for tables and monitor sets

CONVERSATION = "<|user|> sam has some pears and gets more . how many now ? <|end|> <|assistant|> how many pears at first ? "
CONVERSATION += "<|end|> <|user|> a lot of pears . <|end|> <|assistant|> how many more pears came ? <|end|> <|user|> maybe 3 . "
CONVERSATION += "<|end|> <|assistant|> are you sure ? <|end|> <|user|> sorry , it is 4 . <|end|> <|assistant|> so 2 plus 4 : "
CONVERSATION += "the answer is 6 . <|end|> <|pad|>"


def _monitored(rng: np.random.Generator, outcome: Tensor) -> dict[str, Tensor]:
    """The conversation as often as there are outcomes, with made-up log-ratios."""
    tokens = build_tokenizer(get_task("math").words)(CONVERSATION)["input_ids"]
    words, ids, turn, inside = CONVERSATION.split(), [], -1, False
    for word in words:
        ids.append(turn if inside else -1)
        inside = inside and word != "<|end|>"
        if word == "<|assistant|>":
            turn, inside = turn + 1, True
    turn_ids = torch.tensor(ids).repeat(len(outcome), 1)
    log_ratio = torch.from_numpy(rng.normal(size=turn_ids.shape)).float() * (turn_ids >= 0)
    return {
        "log_ratio": log_ratio,
        "turn_ids": turn_ids,
        "input_ids": torch.tensor([tokens] * len(outcome)),
        "outcome": outcome,
    }


@pytest.fixture(scope="session")
def three_seeds() -> Profile:
    """The smoke profile with as many seeds as statistics need."""
    return replace(get_profile("smoke"), seeds=(0, 1, 2))


@pytest.fixture(scope="session")
def written_runs(three_seeds: Profile, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Finished runs of every method and three seeds, with made-up numbers: the later a method is listed, the better."""
    store, outcome, runs = Store(tmp_path_factory.mktemp("runs")), torch.tensor([1.0, 0.0, 0.0, 1.0]), []
    for config in three_seeds.grid():
        rng = np.random.default_rng(config.seed)
        position = [method.name for method in three_seeds.methods].index(config.method.name)
        level = 0.3 + 0.1 * position + 0.01 * config.seed
        has_prm = config.method.name in ("prime", "itpo", "norm_itpo")
        ranking = {"prm_auc": 0.75, "prm_kendall": 0.25 + 0.01 * config.seed} if has_prm else {}
        run = store.open(config)
        if has_prm:
            run.log(-1, ranking)
        for step in range(4):
            if step % 2 == 0:
                run.log(step, {"eval_success": level * step / 2})
            run.log(step, {"success": level, **ranking})
        run.log(4, {"eval_success": level * 2})
        for step in range(5 * has_prm):
            run.save_monitor(step, _monitored(rng, outcome))
        run.finish({"success": level + 0.001 * config.seed, "greedy_success": level, "turns": 4.0})
        runs.append(run)
    return runs


@pytest.fixture(scope="session")
def judged_runs(written_runs: list[Run]) -> list[Run]:
    """Those of methods with a process reward model, which have monitor sets."""
    return [run for run in written_runs if run.monitor()]


# What every picture is checked for


@pytest.fixture
def figure_style() -> Iterator[None]:
    """Draw as the notebooks do, without a screen."""
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        use_style()
        yield


def _text_boxes(figure: Figure) -> dict[Text, Bbox]:
    """The box, in pixels, of every visible text of a figure but tick labels (some of which are never drawn)."""
    figure.draw_without_rendering()
    ticks = {
        text
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for text in (tick.label1, tick.label2)
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return {text: text.get_window_extent() for text in texts if text not in ticks}


@pytest.fixture
def text_boxes(figure_style: None) -> Callable[[Figure], dict[Text, Bbox]]:
    """Measures the texts of a figure."""
    return _text_boxes


@pytest.fixture
def check_apart(figure_style: None) -> Callable[[Figure], None]:
    """Fails if a text of the figure overlaps another or leaves the page."""

    def check(figure: Figure) -> None:
        boxes = _text_boxes(figure)
        for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
            assert not first.overlaps(second), (a.get_text(), b.get_text())
        page = figure.bbox
        for text, box in boxes.items():
            inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            assert inside, text.get_text()

    return check


@pytest.fixture
def png(figure_style: None) -> Callable[[Figure], bytes]:
    """Draws a figure as the bytes of a file."""

    def draw(figure: Figure) -> bytes:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=60, metadata={"Software": None})
        return file.getvalue()

    return draw
