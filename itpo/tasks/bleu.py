"""BLEU of a document against its reference: over characters, as the released code computes it, and over words beside it.

The released code calls nltk's ``sentence_bleu`` on two *strings*. Its "words" are then characters, which is why scores near 45
appear [C]; the usual score of the same documents is that of sacreBLEU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

MARKER = "Final document:"  # what stands before a document that a judge extracted [O]


def character_bleu(document: str, reference: str, smooth: bool = False) -> float:
    """BLEU in [0, 1] over character 1- to 4-grams, spaces included: nltk's ``sentence_bleu`` of two strings [C].

    Without one common 4-gram it is 0 up to rounding, as in the released code. ``smooth`` counts 0.1 n-grams where there are
    none [O] and changes no other score, so that short bad documents keep an order.

    >>> round(character_bleu("the cat sat", "the cat sat down"), 3)
    0.635
    >>> [round(character_bleu(text, "the cat sat", smooth=True), 2) for text in ("the dog", "a mat")]
    [0.23, 0.04]
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    if not document or not reference:
        return 0.0
    smoothing = SmoothingFunction()
    method = smoothing.method1 if smooth else smoothing.method0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of n-grams that never match, which is a score of 0
        score = sentence_bleu([reference], document, smoothing_function=method)
    return min(max(float(score), 0.0), 1.0)


def word_bleu(document: str, reference: str) -> float:
    """Sentence-level sacreBLEU in [0, 1]: word 1- to 4-grams, tokenizer "13a", exponential smoothing.

    >>> round(word_bleu("the cat sat", "the cat sat down"), 3)
    0.717
    """
    import sacrebleu  # takes a third of a second

    return min(1.0, sacrebleu.sentence_bleu(document, [reference]).score / 100) if document else 0.0


# What BLEU counts; "characters" is the released code's.
UNITS: dict[str, Callable[[str, str], float]] = {"characters": character_bleu, "words": word_bleu}


def without_marker(document: str) -> str:
    """An extracted document without its leading marker, which the released code leaves in the scored string [C].

    >>> without_marker("Final document: Once upon a time")
    'Once upon a time'
    """
    return document.strip().removeprefix(MARKER).strip()
