"""Judges: how good the scripted one is, and that no failure of a judge passes for a score."""

import random
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from itpo.dialogue import Dialogue, Message
from itpo.models.tiny import scripted_dialogue
from itpo.tasks.judging import Judge, JudgeError, Judgement, ScriptedJudge, judge_dialogues
from itpo.tasks.registry import get_task

TASK = get_task("math")
MANY = 2000
NAN, INF = float("nan"), float("inf")


@cache
def converse(params, count):
    """Dialogues of a scripted policy; the tokens do not matter here."""
    dialogues = []
    for seed in range(count):
        example, messages, outcome = scripted_dialogue(TASK, params, random.Random(seed))
        dialogues.append(Dialogue(example, tuple(messages), (), (), (), outcome))
    return dialogues


def generators(count, salt=""):
    return [random.Random(f"{salt}/{i}") for i in range(count)]


def scripted(dialogues, error_rate, salt=""):
    judgement = judge_dialogues(
        ScriptedJudge(TASK, error_rate), dialogues, generators(len(dialogues), salt), retries=0
    )
    assert judgement.failed == [] and judgement.retries == 0 and judgement.reasons == []
    return judgement.scores


def dialogue_of(turns):
    """A dialogue of so many assistant turns."""
    messages = [Message("user", "a story")]
    for turn in range(turns):
        messages += [Message("assistant", f"turn {turn}"), Message("user", "ok .")]
    return Dialogue(None, tuple(messages), (), (), (), 1.0)


class Says:
    """A judge that gives the same answer whatever it is shown, and counts its calls."""

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    def scores(self, example, messages, rng):
        self.calls += 1
        return self.answer


class Raises:
    """A judge that cannot be reached."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def scores(self, example, messages, rng):
        self.calls += 1
        raise self.error


class EverySecond:
    """A judge that times out at its first call and at every second one after it."""

    def __init__(self):
        self.calls = 0

    def scores(self, example, messages, rng):
        self.calls += 1
        if self.calls % 2:
            raise TimeoutError("no answer in 30 s")
        return [0.5 for message in messages if message.role == "assistant"]


# How good the scripted judge is


def test_the_expert_makes_no_bad_turn(unchecked):
    dialogues = converse(TASK.expert, MANY)
    scores = scripted(dialogues, 0.0)
    assert [len(row) for row in scores] == [d.assistant_turns for d in dialogues]
    assert all(score == 1 for row in scores for score in row)


def test_the_noisy_expert_makes_good_turns_and_bad_ones_and_a_dialogue_of_good_ones_succeeds(unchecked):
    dialogues = converse(TASK.noisy_expert, MANY)
    scores = scripted(dialogues, 0.0)
    flat = [score for row in scores for score in row]
    assert set(flat) == {0.0, 1.0} and 0.3 < np.mean(flat) < 0.9
    won = [np.mean(row) for d, row in zip(dialogues, scores, strict=True) if d.outcome == 1]
    lost = [np.mean(row) for d, row in zip(dialogues, scores, strict=True) if d.outcome == 0]
    assert np.mean(won) > np.mean(lost) + 0.1
    flawless = [d.outcome for d, row in zip(dialogues, scores, strict=True) if min(row) == 1]
    assert len(flawless) > 100 and set(flawless) == {1.0}


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_scores_are_wrong_as_often_as_documented(rate, unchecked):
    dialogues = converse(TASK.noisy_expert, MANY)
    right, judged = scripted(dialogues, 0.0), scripted(dialogues, rate, "errors")
    flips = np.concatenate([np.not_equal(a, b) for a, b in zip(right, judged, strict=True)])
    good = np.concatenate(right) == 1
    for turns in (flips, flips[good], flips[~good]):
        # Four standard deviations of a binomial; none where the rate is 0 or 1.
        assert abs(turns.sum() - rate * len(turns)) <= 4 * np.sqrt(len(turns) * rate * (1 - rate))
    # Independent within a dialogue: two neighbouring turns are both wrong at the squared rate.
    pairs = np.concatenate(
        [
            np.not_equal(a[:-1], b[:-1]) & np.not_equal(a[1:], b[1:])
            for a, b in zip(right, judged, strict=True)
        ]
    )
    assert abs(pairs.mean() - rate**2) <= 6 * np.sqrt(rate**2 * (1 - rate**2) / len(pairs))


def test_the_same_generators_give_the_same_scores_one_dialogue_at_a_time_or_many(unchecked):
    dialogues = converse(TASK.noisy_expert, 200)
    scores = scripted(dialogues, 0.2)
    assert scripted(dialogues, 0.2) == scores
    assert scripted(dialogues, 0.2, "other") != scores
    judge = ScriptedJudge(TASK, 0.2)
    rngs = generators(len(dialogues))
    alone = [judge_dialogues(judge, [d], [rng], 0).scores[0] for d, rng in zip(dialogues, rngs, strict=True)]
    assert alone == scores
    rngs = generators(len(dialogues))
    assert judge_dialogues(judge, dialogues[::-1], rngs[::-1], 0).scores == scores[::-1]


@pytest.mark.parametrize("rate", [-0.1, 1.1, NAN, INF])
def test_an_error_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match=r"error_rate is a probability in \[0, 1\], not"):
        ScriptedJudge(TASK, rate)


def test_judges_are_told_by_their_method():
    assert isinstance(ScriptedJudge(TASK, 0.2), Judge) and isinstance(EverySecond(), Judge)
    assert not isinstance(TASK, Judge)


def test_the_judge_is_shown_the_dialogue_and_its_own_generator():
    seen = []

    class Looks:
        def scores(self, example, messages, rng):
            seen.append((example, messages, rng))
            return [1]

    dialogues, rngs = [dialogue_of(1), dialogue_of(1)], generators(2)
    judge_dialogues(Looks(), dialogues, rngs, retries=3)
    for (example, messages, rng), dialogue, own in zip(seen, dialogues, rngs, strict=True):
        assert example is dialogue.example and messages is dialogue.messages and rng is own


# What becomes of a judge that fails


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize(
    "error",
    [
        JudgeError("the reply was no JSON"),
        TimeoutError("too slow"),
        ConnectionError("down"),
        ConnectionResetError("x"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_judge_that_always_fails_is_called_a_bounded_number_of_times_and_reported(error, retries):
    judge = Raises(error)
    judgement = judge_dialogues(judge, [dialogue_of(2), dialogue_of(3)], generators(2), retries)
    assert judge.calls == 2 * (retries + 1)
    assert judgement == Judgement(
        [[1.0, 1.0], [1.0, 1.0, 1.0]], [0, 1], 2 * retries, [f"{type(error).__name__}: {error}"] * 2
    )


BAD = {
    "too few": [0.5],
    "too many": [0.5, 0.5, 0.5],
    "none": [],
    "NaN": [0.5, NAN],
    "negative": [0.5, -0.001],
    "infinite": [INF, 0.5],
    "infinite in numpy": [np.float32(INF), np.float64(0.5)],
    "too large": [10**400, 1],
    "strings": ["1", "0"],
    "a string": "10",
    "bytes": b"\x01\x02",
    "bools": [True, False],
    "numpy bools": [np.bool_(True), np.bool_(False)],
    "nothing": None,
    "nothing inside": [None, 0.5],
    "nested": [[0.5], [0.5]],
    "complex": [1 + 0j, 1 + 0j],
    "a dict": {0: 0.1, 1: 0.2},
    "a set": {0.1, 0.2},
    "one number": 0.5,
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
def test_nonsense_is_a_failure_and_never_a_zero(answer):
    judge = Says(answer)
    judgement = judge_dialogues(judge, [dialogue_of(2)], generators(1), retries=2)
    assert judge.calls == 3 and judgement.retries == 2
    assert judgement.failed == [0] and judgement.scores == [[1.0, 1.0]]
    assert judgement.reasons[0].startswith("JudgeError: the judge ") and "expected" in judgement.reasons[0]


@pytest.mark.parametrize(
    "answer",
    [[0, 1], (0.0, 2.5), [0.0, 0.0], [np.float32(0.25), np.int64(3)], [Fraction(1, 2), 10], [1e308, 1e308]],
)
def test_any_finite_numbers_from_zero_are_scores(answer):
    judge = Says(answer)
    judgement = judge_dialogues(judge, [dialogue_of(2)], generators(1), retries=2)
    assert judge.calls == 1 and judgement == Judgement([[float(x) for x in answer]], [], 0)
    assert all(type(score) is float for score in judgement.scores[0])


def test_a_judge_that_times_out_now_and_then_is_asked_again():
    dialogues = [dialogue_of(turns) for turns in (1, 2, 3, 4)]
    judgement = judge_dialogues(EverySecond(), dialogues, generators(4), retries=1)
    assert judgement == Judgement([[0.5] * turns for turns in (1, 2, 3, 4)], [], 4)
    judgement = judge_dialogues(EverySecond(), dialogues, generators(4), retries=0)
    assert judgement.failed == [0, 2] and judgement.retries == 0
    assert judgement.scores == [[1.0], [0.5] * 2, [1.0] * 3, [0.5] * 4]
    assert judgement.reasons == ["TimeoutError: no answer in 30 s"] * 2


def test_the_last_failure_is_the_one_that_is_told():
    class Worse:
        def __init__(self):
            self.answers = iter([[NAN], [-1], [0.5]])

        def scores(self, example, messages, rng):
            return next(self.answers)

    judgement = judge_dialogues(Worse(), [dialogue_of(1)], generators(1), retries=1)
    assert judgement.reasons == [
        "JudgeError: the judge gave turn 0 the score -1: expected a finite number >= 0"
    ]
    assert judge_dialogues(Worse(), [dialogue_of(1)], generators(1), retries=2) == Judgement([[0.5]], [], 2)


def test_a_second_call_draws_on():
    """A judge that fails by its own draw is not made to repeat that draw."""

    class Draws:
        def scores(self, example, messages, rng):
            drawn = rng.random()
            return [drawn] if drawn > 0.5 else []

    rngs = generators(50)
    judgement = judge_dialogues(Draws(), [dialogue_of(1)] * 50, rngs, retries=40)
    assert judgement.failed == [] and judgement.retries > 10 and min(judgement.scores)[0] > 0.5
    assert judge_dialogues(Draws(), [dialogue_of(1)] * 50, generators(50), retries=40) == judgement


@pytest.mark.parametrize(
    "error", [KeyError("turns"), ValueError("bug"), OSError("disk"), RuntimeError("bug"), ZeroDivisionError()]
)
def test_any_other_exception_is_a_bug_and_passed_on(error):
    judge = Raises(error)
    with pytest.raises(type(error)) as caught:
        judge_dialogues(judge, [dialogue_of(1)], generators(1), retries=5)
    assert caught.value is error and judge.calls == 1


def test_every_dialogue_has_a_generator_and_retries_are_counted_from_zero():
    with pytest.raises(ValueError, match="2 dialogues but 1 random generators: pass one for each dialogue"):
        judge_dialogues(Says([1.0]), [dialogue_of(1), dialogue_of(1)], generators(1), 0)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        judge_dialogues(Says([1.0]), [dialogue_of(1)], generators(1), -1)
    assert judge_dialogues(Says([1.0]), [], [], 3) == Judgement([], [], 0)
