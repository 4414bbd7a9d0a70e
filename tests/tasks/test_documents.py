"""Document writing: what is its own beside the engine's rules, which test_slots.py holds it to, and its score."""

import dataclasses
import itertools
import math
import random
from collections import Counter

import pytest
from scripted import conversation, hear

from itpo.dialogue import Message
from itpo.tasks.bleu import character_bleu, word_bleu
from itpo.tasks.documents import BODIES, CLOSINGS, VALUES, DocumentWriting, Wish, extract, word_score

CHESS = Wish("chess", "experts", "formal")
MUSIC = Wish("music", "children", "warm")
COOKING = Wish("cooking", "parents", "funny")
WISHES = (CHESS, MUSIC, COOKING)
EVERY_WISH = [Wish(*parts) for parts in itertools.product(*VALUES.values())]
SUBJECT, AUDIENCE = "what is it about ?", "who will read it ?"
CLARIFY, VERIFY, CHAT = "please name one .", "are you sure ?", "let me think ."
CLEAR = DocumentWriting(clear=1.0, vague=0.0)
VAGUE = DocumentWriting(clear=0.0, vague=1.0)
WRONG = DocumentWriting(clear=0.0, vague=0.0, mistaken=1.0)
every_seed = pytest.mark.parametrize("seed", range(12))


def named(text):
    """Every subject, audience or tone that a message names."""
    return [word for word in text.split() if any(word in values for values in VALUES.values())]


def drafted(example, **changes):
    return f"draft : {dataclasses.replace(example, **changes).target}"


def test_the_opening_is_the_same_for_every_wish():
    assert len({CLEAR.opening(wish)[0].content for wish in EVERY_WISH}) == 1


@every_seed
@pytest.mark.parametrize("task", [CLEAR, VAGUE, WRONG])
def test_what_a_draft_filled_in_is_never_told(task, seed):
    for ask in (SUBJECT, AUDIENCE):
        replies = hear(task, CHESS, drafted(MUSIC), ask, CLARIFY, VERIFY, ask, seed=seed)
        assert named(replies[0]) == ["formal"] and not any(map(named, replies[1:]))
    replies = hear(task, CHESS, SUBJECT, drafted(MUSIC), AUDIENCE, CLARIFY, VERIFY, seed=seed)
    assert not any(map(named, replies[2:]))


@every_seed
@pytest.mark.parametrize("example", WISHES, ids=lambda w: w.subject)
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
    story = [*CLEAR.opening(CHESS), Message("assistant", f"{drafted(MUSIC)} {drafted(CHESS)}")]
    assert word_score(CHESS, story) == pytest.approx(1.0)
    assert word_score(MUSIC, story) < 0.5


def test_texts_have_few_words_in_common():
    bodies = [body for table in BODIES.values() for body in table.values()]
    assert len(bodies) == len(set(bodies)) == 16
    assert all(len(set(a.split()) & set(b.split())) <= 1 for a, b in itertools.combinations(bodies, 2))
    assert not any(a in b for a, b in itertools.permutations(bodies, 2))


START = "please write a short text for me ."
TOLD = (START, SUBJECT, "chess , please .", AUDIENCE, "experts this time .")
JUDGED = [
    ((*TOLD, drafted(CHESS)), [1, 1, 1]),
    ((*TOLD, drafted(CHESS, tone="warm")), [1, 1, 1]),  # the tone cannot be known before a draft
    ((*TOLD, drafted(CHESS, tone="warm"), "make it funny .", drafted(CHESS, tone="funny")), [1, 1, 1, 1]),
    ((*TOLD, drafted(CHESS, tone="warm"), "make it funny .", drafted(CHESS, tone="warm")), [1, 1, 1, 0]),
    ((*TOLD, drafted(CHESS, audience="parents")), [1, 1, 0]),
    ((*TOLD, SUBJECT, "we had that .", CLARIFY, "we had that .", VERIFY, "yes ."), [1, 1, 0, 0, 0]),
    ((START, CHAT, "ok .", drafted(CHESS), "go on .", AUDIENCE, "as you wrote it ."), [0, 0, 0]),
    ((START, SUBJECT, "surprise me .", CLARIFY, "chess , please .", drafted(CHESS)), [1, 1, 0]),
    ((START, SUBJECT, "surprise me .", VERIFY, "yes .", CLARIFY, "we had that ."), [1, 0, 0]),
    ((START, SUBJECT, "maybe music .", AUDIENCE, "experts this time .", VERIFY, "yes ."), [1, 0, 0]),
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


def test_a_draft_is_early_until_all_was_asked_for():
    texts = [START, SUBJECT, "surprise me .", CHAT, "ok .", drafted(CHESS), "go on .", AUDIENCE]
    kinds = ["ask_subject", "missed repair", "early draft", "ask_audience", "draft"]
    assert CLEAR.turn_kinds(conversation(*texts, "as you wrote it .", drafted(CHESS))) == kinds


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("are you sure ? please name one .", "verify"),
        (f"please name one . {SUBJECT}", "clarify"),
        (f"{VERIFY} draft : hello", "draft"),
        ("draft hello", "chat"),
        ("formal chess for experts .", "chat"),
        (f"{AUDIENCE} {SUBJECT}", "ask_subject"),
        (f"ok . {AUDIENCE}", "ask_audience"),
        ("what is it", "chat"),
        ("", "chat"),
    ],
)
def test_what_an_assistant_message_does(text, act):
    assert CLEAR.act(text) == act
