"""Document writing: every rule of the module's text by a scripted conversation, its score, and its limits on any text."""

import dataclasses
import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itpo.dialogue import Message
from itpo.models.tiny import scripted_dialogue
from itpo.tasks.bleu import character_bleu, word_bleu
from itpo.tasks.documents import (
    BODIES,
    CLOSINGS,
    EXPERT,
    NOISY_EXPERT,
    VALUES,
    DocumentWriting,
    Wish,
    act_of,
    extract,
)
from itpo.tasks.registry import get_task

CHESS = Wish("chess", "experts", "formal")
MUSIC = Wish("music", "children", "warm")
COOKING = Wish("cooking", "parents", "funny")
WISHES = (CHESS, MUSIC, COOKING)
EVERY_WISH = [Wish(*parts) for parts in itertools.product(*VALUES.values())]
SUBJECT, AUDIENCE = "what is it about ?", "who will read it ?"
SPECIFY, CONFIRM, CHAT = "please name one .", "are you sure ?", "let me think ."
CLEAR = DocumentWriting(clear=1.0, vague=0.0)
VAGUE = DocumentWriting(clear=0.0, vague=1.0)
WRONG = DocumentWriting(clear=0.0, vague=0.0, mistaken=1.0)
DOUBTING = DocumentWriting(clear=0.0, vague=0.0, mistaken=0.0)
every_seed = pytest.mark.parametrize("seed", range(12))
every_wish = pytest.mark.parametrize("example", WISHES, ids=lambda w: w.subject)


def hear(task, example, *turns, seed=0):
    """The user's replies to these assistant turns, one after another."""
    rng = random.Random(seed)
    messages, replies = task.opening(example), []
    for turn in turns:
        messages.append(Message("assistant", turn))
        replies.append(task.reply(example, messages, rng))
        messages.append(Message("user", str(replies[-1])))
    return replies


def named(text):
    """Every subject, audience or tone that a message names."""
    return [word for word in text.split() if any(word in values for values in VALUES.values())]


def conversation(*texts):
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def drafted(example, **changes):
    return f"draft : {dataclasses.replace(example, **changes).target}"


def test_the_opening_tells_nothing():
    (message,) = CLEAR.opening(CHESS)
    assert message.role == "user" and not named(message.content)
    assert all(CLEAR.opening(wish) == [message] for wish in EVERY_WISH)


@every_seed
@every_wish
def test_a_clear_user_says_what_is_asked(example, seed):
    assert [act_of(ask) for ask in (SUBJECT, AUDIENCE)] == ["ask_subject", "ask_audience"]
    asked = [named(r) for r in hear(CLEAR, example, SUBJECT, AUDIENCE, seed=seed)]
    assert asked == [[example.subject], [example.audience]]
    assert [named(r) for r in hear(CLEAR, example, AUDIENCE, SUBJECT, seed=seed)] == asked[::-1]


@every_seed
@every_wish
@pytest.mark.parametrize(("task", "repair"), [(VAGUE, SPECIFY), (WRONG, CONFIRM)])
def test_an_answer_is_repaired_at_once_only(task, repair, example, seed):
    first, repaired = hear(task, example, SUBJECT, repair, seed=seed)
    assert named(first) == [] if task is VAGUE else named(first)[0] != example.subject
    assert named(repaired) == [example.subject]
    assert named(hear(task, example, SUBJECT, f"ok . {repair}", seed=seed)[1]) == [example.subject]
    # The repair is about what was asked for last.
    assert named(hear(task, example, SUBJECT, repair, AUDIENCE, repair, seed=seed)[3]) == [example.audience]
    other = {SPECIFY: CONFIRM, CONFIRM: SPECIFY}[repair]
    for between in (other, CHAT, SUBJECT, drafted(example), "so what", ""):
        late = hear(task, example, SUBJECT, between, repair, SUBJECT, repair, seed=seed)
        assert not any(map(named, late[2:])), late
    replies = hear(task, example, SUBJECT, AUDIENCE, repair, SUBJECT, repair, seed=seed)
    assert named(replies[2]) == [example.audience] and not any(map(named, replies[3:]))


@every_seed
def test_the_wrong_repair_undoes_nothing(seed):
    assert not named(hear(WRONG, MUSIC, SUBJECT, SPECIFY, seed=seed)[1])
    assert not named(hear(VAGUE, MUSIC, SUBJECT, CONFIRM, seed=seed)[1])
    assert not any(map(named, hear(CLEAR, MUSIC, SUBJECT, CONFIRM, SPECIFY, seed=seed)[1:]))
    assert named(hear(DOUBTING, MUSIC, SUBJECT, seed=seed)[0]) == ["music"]


@every_seed
@pytest.mark.parametrize("task", [CLEAR, VAGUE, WRONG])
def test_each_attribute_is_told_once(task, seed):
    for ask in (SUBJECT, AUDIENCE):
        assert hear(task, CHESS, ask, ask, CHAT, ask, seed=seed)[1::2] == ["we had that ."] * 2


@every_seed
@pytest.mark.parametrize("task", [CLEAR, VAGUE, WRONG])
def test_what_a_draft_filled_in_is_never_told(task, seed):
    for ask in (SUBJECT, AUDIENCE):
        replies = hear(task, CHESS, drafted(MUSIC), ask, SPECIFY, CONFIRM, ask, seed=seed)
        assert named(replies[0]) == ["formal"] and not any(map(named, replies[1:]))
    replies = hear(task, CHESS, SUBJECT, drafted(MUSIC), AUDIENCE, SPECIFY, CONFIRM, seed=seed)
    assert not any(map(named, replies[2:]))


@every_seed
@every_wish
def test_how_a_draft_is_received(example, seed):
    for content in (example, Wish("gardens", "beginners", "warm")):
        right = drafted(content, tone=example.tone)
        for tone in CLOSINGS:
            draft = drafted(content, tone=tone)
            (early,) = hear(CLEAR, example, draft, seed=seed)
            late = hear(CLEAR, example, SUBJECT, AUDIENCE, draft, seed=seed)[2]
            if tone == example.tone:
                assert not named(early) and late is None
            else:
                assert named(early) == named(late) == [example.tone]
            # The second draft is taken as it is, at once or after another turn.
            assert hear(CLEAR, example, draft, draft, seed=seed)[1] is None
            assert hear(CLEAR, example, draft, CHAT, right, seed=seed)[2] is None


def test_how_often_the_user_is_clear_vague_or_mistaken(unchecked):
    task, kinds, wrong = DocumentWriting(clear=0.4, vague=0.3, mistaken=0.9), {}, 0
    for seed in range(2500):
        (reply,) = hear(task, MUSIC, AUDIENCE, seed=seed)
        doubtful = reply.startswith(("maybe", "i guess"))
        kind = "vague" if not named(reply) else "doubtful" if doubtful else "clear"
        kinds[kind] = kinds.get(kind, 0) + 1
        wrong += kind == "doubtful" and named(reply) != ["children"]
        assert kind != "clear" or named(reply) == ["children"]
    assert kinds["clear"] / 2500 == pytest.approx(0.4, abs=0.035)
    assert kinds["vague"] / 2500 == pytest.approx(0.3, abs=0.035)
    assert wrong / kinds["doubtful"] == pytest.approx(0.9, abs=0.035)


def test_every_wish_can_be_drawn():
    assert {CLEAR.sample(random.Random(i)) for i in range(1500)} == set(EVERY_WISH)


def plain_bleu(candidate, target, floor):
    """BLEU by its definition (Papineni et al., 2002) over characters, with ``floor`` matches where there are none."""
    logs = []
    for n in range(1, 5):
        have = Counter(candidate[i : i + n] for i in range(len(candidate) - n + 1))
        want = Counter(target[i : i + n] for i in range(len(target) - n + 1))
        matches = sum(min(count, want[gram]) for gram, count in have.items())
        if n == 1 and not matches:
            return 0.0
        logs.append(math.log((matches or floor) / max(1, sum(have.values()))))
    brevity = min(1.0, math.exp(1 - len(target) / len(candidate)))
    return brevity * math.exp(sum(logs) / 4)


texts = [wish.target for wish in EVERY_WISH[::7]] + [
    "dig a hole",
    "hugs !",
    "haha",
    "abc",
    "zzzz",
    "a",
    " ",
    "the the the",
]


@pytest.mark.parametrize("candidate", texts)
def test_character_bleu_by_its_definition(candidate):
    for target in (CHESS.target, MUSIC.target, "dig a hole"):
        smoothed = character_bleu(candidate, target, smooth=True)
        assert smoothed == pytest.approx(plain_bleu(candidate, target, 0.1))
        assert character_bleu(candidate, target) == pytest.approx(
            plain_bleu(candidate, target, 1e-300), abs=1e-12
        )
        assert 0 <= smoothed <= 1
    assert character_bleu("", "dig a hole", smooth=True) == 0.0


def test_the_scale_of_the_score():
    """A perfect draft earns 1, one in the wrong tone most of it, any other text of the table little."""
    for one in EVERY_WISH[::5]:
        for other in EVERY_WISH:
            score = character_bleu(one.target, other.target, smooth=True)
            body = (one.subject, one.audience) == (other.subject, other.audience)
            low, high = {
                (True, True): (1.0, 1.0 + 1e-12),
                (True, False): (0.8, 0.95),
                (False, True): (0.15, 0.4),
                (False, False): (0.0, 0.3),
            }[body, one.tone == other.tone]
            assert low <= score <= high, (one, other)


def test_the_score_reads_the_last_draft():
    story = CLEAR.opening(CHESS)
    right, wrong = Message("assistant", drafted(CHESS)), Message("assistant", drafted(MUSIC))
    low = character_bleu(MUSIC.target, CHESS.target, smooth=True)
    assert CLEAR.score(CHESS, story) == 0.0
    assert CLEAR.score(CHESS, [*story, Message("assistant", CHESS.target)]) == 0.0
    assert CLEAR.score(CHESS, [*story, Message("user", drafted(CHESS))]) == 0.0
    assert CLEAR.score(CHESS, [*story, right]) == CLEAR.score(CHESS, [*story, wrong, right]) == 1.0
    assert CLEAR.score(CHESS, [*story, right, wrong]) == pytest.approx(low)
    # A later turn without a draft leaves the last one as it is.
    assert CLEAR.score(CHESS, [*story, right, Message("user", "ok ."), Message("assistant", CHAT)]) == 1.0
    twice = Message("assistant", f"{drafted(MUSIC)} {drafted(CHESS)}")
    assert CLEAR.score(CHESS, [*story, twice]) == 1.0


def test_the_released_score_keeps_the_marker():
    story = [*CLEAR.opening(CHESS), Message("assistant", f"good . {drafted(CHESS)}")]
    released = DocumentWriting(smooth=False, keep_marker=True)
    assert released.score(CHESS, story) == pytest.approx(plain_bleu(drafted(CHESS), CHESS.target, 0.1))
    assert 0.8 < released.score(CHESS, story) < CLEAR.score(CHESS, story) == 1.0
    assert extract(story[-1].content, keep_marker=True) == drafted(CHESS)
    assert extract("draft :") == "" and extract("draft") is None


def test_word_bleu_stands_beside_it():
    for wish in WISHES:
        assert word_bleu(wish.target, wish.target) == pytest.approx(1.0)
        other = dataclasses.replace(wish, subject="gardens")
        assert word_bleu(other.target, wish.target) < character_bleu(other.target, wish.target)
    # Word order: the characters within words do not see it, whole words do.
    assert word_bleu("the dog bit the man", "the man bit the dog") < 0.6
    assert word_bleu("", "the cat") == 0.0


def test_texts_have_few_words_in_common():
    bodies = [body for table in BODIES.values() for body in table.values()]
    assert len(bodies) == len(set(bodies)) == 16
    assert all(len(set(a.split()) & set(b.split())) <= 1 for a, b in itertools.combinations(bodies, 2))
    assert not any(a in b for a, b in itertools.permutations(bodies, 2))


def test_the_ideal_writer_solves_the_task_and_the_novice_does_not(mean_outcome, unchecked):
    assert mean_outcome("documents", EXPERT, 400) >= 0.95
    assert 0.3 <= mean_outcome("documents", NOISY_EXPERT, 400) <= 0.5


@pytest.mark.parametrize(
    "lacking", [{"specify": 0.0}, {"confirm": 0.0}, {"rush": 0.5}, {"chat": 0.7}], ids=lambda h: next(iter(h))
)
def test_every_habit_matters(lacking, mean_outcome, unchecked):
    assert mean_outcome("documents", dataclasses.replace(EXPERT, **lacking), 200) < 0.8


def test_the_writer_says_only_what_it_heard(unchecked):
    """The same conversation with another hidden wish gets the same answer: the writer does not know it."""
    task = get_task("documents")
    for seed in range(50):
        example, messages, _ = scripted_dialogue(task, EXPERT, random.Random(seed))
        for end in range(1, len(messages), 2):
            one, two = (
                task.scripted_policy(e, messages[:end], random.Random(seed), EXPERT) for e in (example, None)
            )
            assert one == two


START = "please write a short text for me ."
TOLD = (START, SUBJECT, "chess , please .", AUDIENCE, "experts this time .")
JUDGED = [
    ((*TOLD, drafted(CHESS)), [1, 1, 1]),
    ((*TOLD, drafted(CHESS, tone="warm")), [1, 1, 1]),  # the tone cannot be known before a draft
    ((*TOLD, drafted(CHESS, tone="warm"), "make it funny .", drafted(CHESS, tone="funny")), [1, 1, 1, 1]),
    ((*TOLD, drafted(CHESS, tone="warm"), "make it funny .", drafted(CHESS, tone="warm")), [1, 1, 1, 0]),
    ((*TOLD, drafted(CHESS, audience="parents")), [1, 1, 0]),
    ((*TOLD, SUBJECT, "we had that .", SPECIFY, "we had that .", CONFIRM, "yes ."), [1, 1, 0, 0, 0]),
    ((START, CHAT, "ok .", drafted(CHESS), "go on .", AUDIENCE, "as you wrote it ."), [0, 0, 0]),
    ((START, SUBJECT, "surprise me .", SPECIFY, "chess , please .", drafted(CHESS)), [1, 1, 0]),
    ((START, SUBJECT, "surprise me .", CONFIRM, "yes .", SPECIFY, "we had that ."), [1, 0, 0]),
    ((START, SUBJECT, "maybe music .", AUDIENCE, "experts this time .", CONFIRM, "yes ."), [1, 0, 0]),
    # Told wrongly and not repaired: the turn after it is at fault, the draft that follows from it is not.
    (
        (*TOLD[:3], AUDIENCE, "maybe parents .", CHAT, "ok .", drafted(CHESS, audience="parents")),
        [1, 1, 0, 1],
    ),
]


@pytest.mark.parametrize(("texts", "scores"), JUDGED)
def test_what_a_judge_thinks_of_each_turn(texts, scores):
    # Whatever the wish: the hidden one is not read.
    assert all(CLEAR.turn_scores(wish, conversation(*texts)) == scores for wish in WISHES)


def test_a_judge_finds_no_fault_with_the_ideal_writer(unchecked):
    task = get_task("documents")
    for seed in range(100):
        example, messages, _ = scripted_dialogue(task, EXPERT, random.Random(seed))
        assert set(task.turn_scores(example, messages)) == {1.0}


def test_the_kinds_of_turns(unchecked):
    task, seen = get_task("documents"), set()
    texts = (
        START,
        SUBJECT,
        "surprise me .",
        CHAT,
        "ok .",
        drafted(CHESS),
        "go on .",
        AUDIENCE,
        "as you wrote it .",
    )
    kinds = ["ask_subject", "missed repair", "early draft", "ask_audience", "draft"]
    assert task.turn_kinds(conversation(*texts, drafted(CHESS))) == kinds
    for seed in range(300):
        _, messages, _ = scripted_dialogue(task, NOISY_EXPERT, random.Random(seed))
        kinds = task.turn_kinds(messages)
        acts = [task.act(m.content) for m in messages if m.role == "assistant"]
        assert len(kinds) == len(acts)
        for kind, act in zip(kinds, acts, strict=True):
            assert kind in (act, "missed repair") or (kind, act) == ("early draft", "draft")
        seen |= set(kinds)
    assert seen == set(task.kinds)


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("are you sure ? please name one .", "confirm"),
        (f"please name one . {SUBJECT}", "specify"),
        (f"{CONFIRM} draft : hello", "draft"),
        ("draft hello", "chat"),
        ("formal chess for experts .", "chat"),
        (f"{AUDIENCE} {SUBJECT}", "ask_subject"),
        (f"ok . {AUDIENCE}", "ask_audience"),
        ("what is it", "chat"),
        ("", "chat"),
    ],
)
def test_what_an_assistant_message_does(text, act):
    assert act_of(text) == act == get_task("documents").act(text)


fragments = [*CLEAR.words, SUBJECT, AUDIENCE, SPECIFY, CONFIRM, drafted(CHESS), drafted(MUSIC), "draft :"]
fragments += ["{value}", "{", "%s", "\n", "", "<|end|>", "maybe chess .", "surprise me ."]
anything = st.lists(st.sampled_from(fragments), max_size=6).map(" ".join) | st.text(max_size=20)


@given(
    turns=st.lists(anything, min_size=1, max_size=5), seed=st.integers(0, 99), which=st.sampled_from(WISHES)
)
def test_any_text_gets_a_reply_and_a_score(turns, seed, which):
    task, rng = get_task("documents"), random.Random(seed)
    words = set(task.words)
    messages = task.opening(which)
    for count, turn in enumerate(turns, 1):
        messages.append(Message("assistant", turn))
        assert 0.0 <= task.score(which, messages) <= 1.0
        assert len(task.turn_scores(which, messages)) == len(task.turn_kinds(messages)) == count
        assert set(task.turn_kinds(messages)) <= set(task.kinds)
        # Stateless: the same messages and the same generator state give the same reply from any instance.
        state = rng.getstate()
        reply = task.reply(which, messages, rng)
        rng.setstate(state)
        assert DocumentWriting().reply(which, list(messages), rng) == reply
        if reply is None:
            assert act_of(turn) == "draft"
            break
        assert set(reply.split()) <= words
        messages.append(Message("user", reply))


@given(turns=st.lists(anything, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_writer_goes_on_from_any_conversation(turns, seed):
    task = get_task("documents")
    messages = task.opening(CHESS)
    for turn in turns:
        messages.append(Message("assistant", turn))
        reply = task.reply(CHESS, messages, random.Random(seed))
        if reply is None:
            return
        messages.append(Message("user", reply))
        assert task.scripted_policy(CHESS, messages, random.Random(seed), NOISY_EXPERT)
