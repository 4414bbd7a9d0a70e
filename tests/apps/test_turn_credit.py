"""The table of turn credit at the end of a chat: its numbers are those of the page, and it can be read everywhere."""

import io
import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quickjs
from method_fixtures import _unchecked

from itpo import prm, trainer
from itpo.__main__ import main
from itpo.apps import terminal, turn_credit
from itpo.apps.configs import finished_run
from itpo.apps.training import chosen_config
from itpo.apps.turn_credit import TurnCredit, turn_credit_table
from itpo.attribution import get_method, known_methods
from itpo.dialogue import collate
from itpo.estimators import allows
from itpo.models.tiny import scripted_dialogue
from itpo.runs.store import Run, Store
from itpo.study.profiles import get_profile
from itpo.training.build import trained
from itpo.training.learner import Learner

SIZES = {
    "steps": 1,
    "warmup": 1,
    "prompts": 2,
    "rollouts": 2,
    "eval_dialogues": 2,
    "monitor_dialogues": 2,
    "prm_lr": 0.02,
}


def short_run(root: Path, method: str) -> Run:
    config = replace(get_profile("smoke").config(method, 0), **SIZES)
    run = Store(root).open(config)
    with _unchecked():
        trainer.train(config, run)
    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    return short_run(root, "norm_itpo")


@pytest.fixture(scope="module")
def learner(run: Run) -> Learner:
    return trained(finished_run(run.folder))


@pytest.fixture(scope="module")
def spoken(learner: Learner) -> Iterator[tuple]:
    """A conversation that a script held: its example, messages and outcome."""
    task = learner.task
    return scripted_dialogue(task, task.expert, random.Random(5))


@pytest.fixture(scope="module")
def credit(learner: Learner, spoken: tuple) -> TurnCredit:
    example, messages, _ = spoken
    return turn_credit.turn_credit(learner, learner.task, example, messages)


def test_the_numbers_are_those_that_the_page_computes(
    learner: Learner, spoken: tuple, credit: TurnCredit
) -> None:
    """The page's functions stand apart from the library, and hold to it in a test of their own."""
    example, messages, outcome = spoken
    held = [
        turn_credit._spoken(learner, learner.task, example, messages),
        *turn_credit._more(learner, learner.task, example, 7),
    ]
    assert credit.outcome == outcome and credit.others == [one.outcome for one in held[1:]]
    assert len({one.messages[0] for one in held}) == 1, "one user opens them all"
    batch = collate(held, 8, learner.chat.pad_id)
    ratios = prm.log_ratio(
        learner.log_probs(batch, "prm"), learner.log_probs(batch, None), batch.response_mask
    )
    _, judged, _ = learner.judge_turns(held, batch, "turn credit")
    group = [
        {
            "outcome": one.outcome,
            "judge": scores[: one.assistant_turns].tolist(),
            "log_ratios": [row[ids == k].tolist() for k in range(one.assistant_turns)],
        }
        for one, scores, row, ids in zip(held, judged, ratios, batch.turn_ids, strict=True)
    ]
    page = (Path(__file__).parents[2] / "docs" / "credit.html").read_text(encoding="utf-8")
    script = quickjs.Context()
    script.eval(re.search(r'<script id="credit">(.*?)</script>', page, re.DOTALL)[1])
    method = learner.config.method
    choice = {
        "baseline": "released",
        "beta": method.beta,
        "eta": method.options["temperature"],
        "beside": True,
    }
    lines = {line.method.name: line for line in credit.lines}
    for name in (
        "trajectory_share",
        "equal_share",
        "judge",
        "prime",
        "itpo",
        "norm_itpo",
        "signed_norm_itpo",
    ):
        asked = json.dumps({**choice, "method": name})
        found = json.loads(script.eval(f"JSON.stringify(credit([{json.dumps(group)}], {asked})[0][0])"))
        assert lines[name].advantages == pytest.approx(found["advantages"], abs=1e-3), name
        if name in ("prime", "itpo"):
            assert lines[name].rewards == pytest.approx(found["prm"], abs=1e-5)
        elif lines[name].rewards is not None:
            wanted = [share * outcome for share in found["shares"]]
            assert lines[name].rewards == pytest.approx(wanted, abs=1e-5)


def test_every_method_that_a_policy_can_be_trained_with_has_a_line(credit: TurnCredit) -> None:
    shown = [line.method.name for line in credit.lines]
    assert shown == [name for name in known_methods() if allows("rloo", name)]
    assert credit.lacking == {"a critic": ["Value model"]}
    assert {line.method.name for line in credit.lines if line.rewards is None} == {
        "mt_grpo",
        "gigpo",
        "istar",
        "signed_norm_itpo",
    }
    for line in credit.lines:
        if line.rewards is not None and line.method.carries_outcome:
            assert sum(line.rewards) == pytest.approx(credit.outcome, abs=1e-6)


def test_a_run_without_a_prm_says_which_methods_need_one(root: Path, spoken: tuple) -> None:
    plain = trained(short_run(root, "trajectory_share"))
    example, messages, _ = spoken
    credit = turn_credit.turn_credit(plain, plain.task, example, messages)
    needy = [entry.label for entry in known_methods().values() if entry.needs_prm]
    assert credit.lacking["a process reward model"] == needy
    said = " ".join(turn_credit_table(credit).split())
    assert f"{', '.join(needy)} (needs a process reward model)" in said


def test_a_conversation_without_an_answer_is_refused(learner: Learner, spoken: tuple) -> None:
    example, messages, _ = spoken
    with pytest.raises(ValueError, match="nobody answered"):
        turn_credit.turn_credit(learner, learner.task, example, messages[:1])


# How it is read


def many_turns(turns: int) -> TurnCredit:
    line = turn_credit.Line(get_method("uniform"), [0.001] * turns, [-12.345] * (turns - 1) + [0.0])
    return TurnCredit([line], 1.0, [0.5] * 7, "released", {"a critic": ["Value model"]})


@pytest.mark.parametrize("width", [40, 80])
def test_it_fits_the_window(credit: TurnCredit, width: int) -> None:
    for shown in (credit, many_turns(9)):
        lines = turn_credit_table(shown, width).splitlines()
        assert max(map(len, lines)) <= width
    assert sum(line.startswith("advantage") for line in lines) > 1, "turns that do not fit come below"


def test_numbers_that_round_to_nothing_have_no_sign_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_credit, "can_print", lambda text: True)
    rows = turn_credit_table(many_turns(2), 80).splitlines()
    rewards, advantages = (row.split()[2:] for row in rows if row.startswith("Uniform"))
    assert rewards == ["0.00", "0.00"] and advantages == ["-12.35", "█", "0.00"]


def test_colours_are_those_of_the_methods_and_only_on_a_terminal(
    credit: TurnCredit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_credit, "can_print", lambda text: True)
    plain = turn_credit_table(credit, 80)
    assert "\x1b" not in plain
    monkeypatch.setattr(terminal, "has_colors", lambda stream: True)
    painted = turn_credit_table(credit, 80)
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == plain
    row = next(line for line in painted.splitlines() if line.startswith("Norm-ITPO"))
    assert "\x1b[38;2;0;114;178m" in row  # #0072B2
    assert "38;2;0;0;0" not in painted


# At the end of a chat


def chat(monkeypatch: pytest.MonkeyPatch, said: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    return main(["chat", *arguments])


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_chat_with_a_run_ends_with_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    assert chat(monkeypatch, "a\na\n\n", "--run", str(run.folder), "--as", role) == 0
    told = capsys.readouterr().out.partition("\n\nWhat each turn earned.")[2]
    assert "Signed Norm-ITPO" in told and "Not shown: Value model" in told and "\x1b" not in told


def test_an_assistant_may_name_the_run_by_facts(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = ["--method", "norm_itpo", "--seed", "0", "--store", str(root)]
    assert chat(monkeypatch, "a\na\n\n", "--as", "assistant", *facts) == 0
    assert "\n\nWhat each turn earned." in capsys.readouterr().out


@pytest.fixture(scope="module")
def corridor(root: Path) -> Run:
    """A run on a corridor that is longer than the default one."""
    options = {"task.turns": 10, "model.steps": 2}
    config = chosen_config("smoke", "corridor", "uniform", "rloo", 0, {**SIZES, **options})
    run = Store(root / "corridors").open(config)
    with _unchecked():
        trainer.train(config, run)
    return run


@pytest.mark.parametrize("named", [[], ["--task", "corridor"]])
def test_the_task_of_the_run_keeps_its_options(
    corridor: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: list[str],
) -> None:
    """In the conversation and in its credit, also where its name is said once more."""
    credited = []

    def noted(learner: Learner, task: Any, *others: Any) -> TurnCredit:
        credited.append(task)
        return many_turns(1)

    monkeypatch.setattr(turn_credit, "turn_credit", noted)
    assert chat(monkeypatch, "a\n\n", "--run", str(corridor.folder), "--as", "assistant", *named) == 0
    assert "There are 10 assistant turns." in capsys.readouterr().out
    assert [task.max_turns for task in credited] == [10]


def test_where_there_is_no_credit_a_chat_says_why_or_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(run.folder)
    assert chat(monkeypatch, "", "--run", folder, "--as", "assistant") == 0
    assert "earned" not in capsys.readouterr().out
    assert chat(monkeypatch, "hi\n\n", "--run", folder, "--free") == 0
    assert "earned" not in capsys.readouterr().out
    assert chat(monkeypatch, "a\n\n", "--run", folder, "--task", "medical") == 0
    assert "no turn credit: the run was trained on the task math, not on medical" in capsys.readouterr().out
    monkeypatch.setattr(
        turn_credit, "trained", lambda run: (_ for _ in ()).throw(OSError("gone\n\x1b[2Jbase"))
    )
    assert chat(monkeypatch, "a\n\n", "--run", folder) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no turn credit: gone \\x1b[2Jbase"
