"""What a terminal is shown: errors in one line, and what others wrote, such as a server or a model, safely."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def one_line(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that say what to do into the one line that a command prints before it ends with 2."""
    try:
        yield
    except errors as error:
        raise typer.TyperException(" ".join(str(error).split())) from error


def visible(text: str) -> str:
    """Text of others for a terminal, which can neither steer it nor turn the order of letters nor begin a line of its own.

    Control and format characters are written as their escapes; further lines are set in.

    >>> print(visible("\\x1b[2J\\u202egnirts"), visible("naïve 😀"))
    \\x1b[2J\\u202egnirts naïve 😀
    """

    def shown(letter: str) -> str:
        """A letter, or the escape of one that is not to be printed."""
        hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        # Joiners are parts of words and of pictures.
        return ascii(letter)[1:-1] if hidden and letter not in "\n\t\u200c\u200d" else letter

    return "".join(map(shown, text.replace("\r\n", "\n"))).replace("\n", "\n  ")
