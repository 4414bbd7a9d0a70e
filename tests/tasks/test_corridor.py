"""The corridor: its outcome by enumeration, a visitor who gives nothing away, and its options."""

import itertools
import random

import pytest

from itpo.chat import ChatFormat
from itpo.config import TaskSpec
from itpo.dialogue import Message
from itpo.models.tiny import CONTEXT, build_tokenizer, scripted_dialogue
from itpo.tasks.base import ScriptedTask
from itpo.tasks.corridor import Corridor, Walk
from itpo.tasks.registry import get_task

RIGHT = {"red": "push it", "blue": "pull it", "green": "slide it", "black": "knock it"}
SETTINGS = [(3, 1, "early"), (3, 3, "late"), (6, 2, "spread"), (12, 3, "early")]
every_corridor = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def hold(task, walk, said, seed=0):
    """The messages when the assistant says these things, one a turn."""
    rng, messages = random.Random(seed), task.opening(walk)
    for text in said:
        messages.append(Message("assistant", text))
        if (reply := task.reply(walk, messages, rng)) is None:
            break
        messages.append(Message("user", reply))
    return messages


def test_only_the_right_action_at_every_door_is_rewarded():
    task, texts = Corridor(3, 2, "spread"), [*RIGHT.values(), "hum softly"]
    for ahead in itertools.product([*RIGHT, "hall"], repeat=3):
        for said in itertools.product(texts, repeat=3):
            won = all(a == "hall" or text == RIGHT[a] for a, text in zip(ahead, said, strict=True))
            messages = hold(task, Walk(ahead), said)
            assert task.score(Walk(ahead), messages) == won
            doors = [i for i, a in enumerate(ahead) if a != "hall"]
            opened = [float(i in doors and said[i] == RIGHT[ahead[i]]) for i in range(3)]
            assert task.turn_scores(Walk(ahead), messages) == opened
            kinds = ["hall" if i not in doors else ("not opened", "opened")[int(opened[i])] for i in range(3)]
            assert task.turn_kinds(messages) == kinds


@pytest.mark.parametrize(
    "text", ["", "push", "it", " it", "push it it", "push it pull it", "pull it push it"]
)
def test_saying_anything_else_opens_no_door(text):
    task, walk = Corridor(1, 1, "early"), Walk(("red",))
    assert task.score(walk, hold(task, walk, [text])) == 0.0
    assert task.score(walk, task.opening(walk)) == 0.0  # a door that was never reached


@every_corridor
def test_the_visitor_says_the_same_whatever_the_assistant_did(settings):
    task = Corridor(*settings)
    for seed in range(20):
        walk = task.sample(random.Random(seed))
        for said in ("push it", "pull it", "hum softly", ""):
            heard = [m.content for m in hold(task, walk, [said] * 20, seed) if m.role == "user"]
            assert heard == [m.content for m in hold(task, walk, ["slide it"] * 20, seed) if m.role == "user"]


@every_corridor
def test_length_places_and_outcome_of_scripted_dialogues(settings):
    turns, pivots, position = settings
    task, places = Corridor(*settings), set()
    tokenizer = build_tokenizer(task.words)
    chat = ChatFormat(tokenizer)
    for seed in range(200):
        walk, messages, outcome = scripted_dialogue(task, task.expert, random.Random(seed))
        assert outcome == 1.0 and [m.role for m in messages] == ["user", "assistant"] * turns
        ids, _ = chat.encode(messages)
        assert tokenizer.unk_token_id not in ids and len(ids) <= 9 * turns <= CONTEXT
        found = tuple(i for i, a in enumerate(walk.ahead) if a != "hall")
        assert len(found) == pivots
        places.add(found)
    fixed = {"early": tuple(range(pivots)), "late": tuple(range(turns - pivots, turns))}
    everywhere = set(itertools.combinations(range(turns), pivots))
    assert places == (everywhere if position == "spread" else {fixed[position]})


def test_a_noisy_expert_opens_a_door_in_two_of_five_tries_and_does_something_else_more_often(unchecked):
    task, tries = Corridor(1, 1, "early"), 4000
    said = [scripted_dialogue(task, task.noisy_expert, random.Random(i))[1] for i in range(tries)]
    for colour, right in RIGHT.items():
        texts = [m[1].content for m in said if m[0].content == f"{colour} door"]
        counts = {text: texts.count(text) / len(texts) for text in set(texts)}
        assert counts[right] == pytest.approx(0.4, abs=0.06)
        assert max(counts, key=counts.__getitem__) != right and set(counts) == set(RIGHT.values())


def test_scripted_assistants_do_what_a_sign_says_and_it_changes_nothing():
    task, walk = Corridor(2, 1, "early"), Walk(("red", "hall"))
    for action in ("push", "pull", "slide", "knock"):
        messages = [
            Message("user", "red door"),
            Message("assistant", "push it"),
            Message("user", f"sign {action}"),
        ]
        for params in (task.expert, task.noisy_expert):
            assert task.scripted_policy(walk, messages, random.Random(0), params) == f"{action} it"
        for said in ("push it", "hum softly"):
            assert task.score(walk, [*messages, Message("assistant", said)]) == 1.0
    heard = {task.reply(walk, messages[:2], random.Random(seed)) for seed in range(200)}
    assert heard == {
        "open hall",
        "long hall",
        "empty hall",
        *(f"sign {a}" for a in ("push", "pull", "slide", "knock")),
    }


@every_corridor
def test_a_corridor_is_built_from_its_options(settings):
    options = dict(zip(("turns", "pivots", "position"), settings, strict=True))
    spec = TaskSpec("corridor", options)
    task = spec.build()
    assert isinstance(task, ScriptedTask) and task.name == "corridor" and task.max_turns == settings[0]
    assert spec.options == options and spec.entry.hidden(Walk(("red", "hall"))) == "red, hall"
    assert TaskSpec("corridor", {"turns": 6, "pivots": 2}).options["position"] == "early"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": 6, "pivots": 2, "doors": 1}, "options of task 'corridor': got an unexpected .*'doors'"),
        ({"turns": 2, "pivots": 3}, "2 turns cannot have 3 pivots: take from 1 to 2"),
        ({"turns": 2, "pivots": 0}, "2 turns cannot have 0 pivots"),
        ({"turns": 6, "pivots": 2, "position": "middle"}, "'middle'; it must be one of early, spread, late"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_task("corridor", options)
    with pytest.raises(ValueError, match=message):
        TaskSpec("corridor", options)
