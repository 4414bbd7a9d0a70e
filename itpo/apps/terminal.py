"""A command and its terminal: modules of the folder, errors in one line, tables and colours that fit, safe texts of others."""

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer import Context
else:
    Context = typer.Context.__base__  # which what a command is given is an instance of

GOES_ON = "the same command goes on from the last checkpoint"


def import_from_here() -> None:
    """Let a reader's own modules be imported from the current folder, as ``python -m`` does.

    The script ``itpo`` does not by itself. Processes that train take it over.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


@contextmanager
def one_line(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that say what to do into the one line that a command prints before it ends with 2.

    But for a pipe whose reader is gone, to whom nothing can be said.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except errors as error:
        raise typer.TyperException(" ".join(str(error).split())) from error


def expected_errors() -> tuple[type[Exception], ...]:
    """The errors that say in one line what is wrong and what to do, for :func:`one_line`."""
    from itpo.runs.files import RunFolderError
    from itpo.runs.locks import RunBusyError
    from itpo.runs.platform import PlatformError  # here, as it loads torch, which help does not need

    return ValueError, OSError, RunFolderError, RunBusyError, PlatformError


@contextmanager
def stoppable(remark: str = "") -> Iterator[None]:
    """End with 130 and one line where a person presses Ctrl-C; also a decorator of a command."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nstopped{': ' * bool(remark)}{remark}", file=sys.stderr)
        raise typer.Exit(130) from None


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


def columns() -> int:
    """The width of the terminal in letters, as ``COLUMNS`` or the terminal says; 80 where neither does."""
    return max(shutil.get_terminal_size().columns, 20)


def is_limited(stream: TextIO | None = None) -> bool:
    """Whether lines must fit a width: on a terminal, or where ``COLUMNS`` says one."""
    return (stream or sys.stdout).isatty() or "COLUMNS" in os.environ


def has_colors(stream: TextIO | None = None) -> bool:
    """Whether to print colours: on a terminal that has them, unless ``NO_COLOR`` is set."""
    return (
        (stream or sys.stdout).isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def paint(text: str, color: str, stream: TextIO | None = None) -> str:
    """Text in a colour such as ``#0072b2``, where the terminal has colours (:func:`has_colors`); else the text alone.

    >>> paint("0.42", "#0072b2")
    '0.42'
    """
    if not has_colors(stream):
        return text
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"\x1b[38;2;{red};{green};{blue}m{text}\x1b[0m"


def can_print(text: str, stream: TextIO | None = None) -> bool:
    """Whether the encoding of standard output has all letters of a text."""
    try:
        text.encode((stream or sys.stdout).encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows as aligned columns; where they are wider than ``width``, each row as a paragraph with its last cell on a line.

    >>> print(table([["task", "seed", "folder"], ["math", "0", "runs/0123"]], width=40))
    task  seed  folder
    math  0     runs/0123
    >>> print(table([["task", "seed", "folder"], ["math", "0", "runs/0123"]], width=20))
    task  seed
      folder
    math  0
      runs/0123
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join(lines)
    paragraphs = []
    for *cells, last in rows:
        said = "  ".join(cell for cell in cells if cell)
        paragraphs += [textwrap.fill(said, width, subsequent_indent="  "), f"  {last}"]
    return "\n".join(paragraphs)


class _Narrow:
    """Help that fits a small window: the texts of options get two thirds of the width."""

    def get_help(self, ctx: Any) -> str:
        """The help of a command, in lines of at most 100 letters."""
        width = min(columns(), 100)
        formatter = ctx.formatter_class(width=width)
        write = formatter.write_dl
        formatter.write_dl = lambda rows, **_: write(rows, col_max=min(30, width // 3))
        self.format_help(ctx, formatter)  # type: ignore[attr-defined]
        return str(formatter.getvalue().rstrip("\n"))


class Command(_Narrow, TyperCommand):
    """A command whose help fits a small window."""


class Group(_Narrow, TyperGroup):
    """A group of commands whose help fits a small window."""


def examples(*lines: str) -> str:
    """Examples under the help of a command, each on a line of its own, whatever the width."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
