"""Figures and tables as the notebooks publish them: each can be drawn again from small text files, without any run.

:func:`publish` writes the arguments of a drawing, reads them back, and draws what it has read. So what stands beside an image
is all that is in it, and :func:`redraw` makes the same image from it. One JSON file for each figure and table,
``<name>.json``, says what the other files ``<name>.*`` are made of.

>>> import shutil
>>> from itpo.figures.publishing import gallery
>>> from itpo.figures.results import credit_by_kind
>>> style.use_style("00_tour")
>>> band = pd.DataFrame({"kind": ["clarify", "verify"], "success": True, "mean": [0.1, 0.2], "low": 0.0, "high": 0.3})
>>> figure = publish(credit_by_kind, "F01_credit", "example", "Credit of two turns.", band=band)
>>> print(publish_table(band[["kind"]], band, "T_credit", "example", "Two turns.", "Their kinds."))
| kind |
|---|
| clarify |
| verify |
<BLANKLINE>
Their kinds.
>>> folder = style.output_folder("example")  # build/example/figures
>>> [record.name for record in read_folder(folder)], [record.drawn for record in redraw(folder)]
(['F01_credit', 'T_credit'], [('.png', '.pdf'), ('.md', '.tex')])
>>> gallery.build(folder).name
'index.html'
>>> shutil.rmtree(folder.parent)
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

import itpo.figures
from itpo.figures import style
from itpo.figures.publishing.encoding import FLOAT, read_table, utf8, write_table
from itpo.figures.publishing.formats import cells, latex, markdown
from itpo.figures.publishing.staging import finish, replacing

Draw = Callable[..., Figure]
TOOLS = {"publishing", "_parts", "style"}  # modules beside the drawings that hold none
# No file says when it was made, or by which version: the same data give the same bytes.
UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError)


class PublishedError(Exception):
    """A published figure or table that cannot be read or drawn again; says which, why, and what to do."""


@dataclass(frozen=True)
class _Record(ABC):
    """What figures and tables have in common. Errors: ValueError for a name that cannot be that of files."""

    drawn: ClassVar[tuple[str, ...]]
    name: str
    profile: str
    notebook: str
    caption: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"{self.name!r} cannot name a figure: use letters, digits, _ and -")
        if not all(isinstance(text, str) for text in (self.profile, self.notebook, self.caption)):
            raise TypeError("profile, notebook and caption have to be texts")

    @property
    @abstractmethod
    def data(self) -> list[str]:
        """The CSV files beside it."""

    @property
    def files(self) -> list[str]:
        """All its files: data, what is drawn from them, and the record itself."""
        return [*self.data, *(f"{self.name}{end}" for end in self.drawn), f"{self.name}.json"]


@dataclass(frozen=True)
class PublishedFigure(_Record):
    """A drawing and its arguments: ``draw`` is "module.function" within itpo.figures.

    ``frames`` has the CSV file and the column types of each data frame among the arguments, ``values`` are the others. Where
    ``by_hand`` is true no run is in it, and its caption says nothing of a profile.
    """

    kind: ClassVar[str] = "figure"
    drawn: ClassVar[tuple[str, ...]] = (".png", ".pdf")
    draw: str
    frames: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    by_hand: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument, frame in self.frames.items():
            own = (f"{self.name}.csv", f"{self.name}.{argument}.csv")
            if not argument.isidentifier() or frame["file"] not in own:
                raise ValueError(f"{frame['file']!r} is not the name of a file of {self.name}")

    @property
    def data(self) -> list[str]:
        """A file for each data frame."""
        return [frame["file"] for frame in self.frames.values()]

    def figure(self, folder: Path) -> Figure:
        """Draw it from the data in ``folder``, with its caption.

        Errors: ValueError, TypeError, KeyError or OSError if the data are not those of such a figure.
        """
        frames = {
            argument: read_table(folder / frame["file"], frame["columns"])
            for argument, frame in self.frames.items()
        }
        figure = find_drawing(self.draw)(**frames, **self.values)
        mark = "" if self.by_hand else f"[{self.profile}] "
        return style.add_caption(figure, f"{mark}{self.caption}")

    def write(self, data: Path, folder: Path) -> Figure:
        """Draw it into ``folder`` from the files in ``data``, as PNG and PDF. Errors: those of :meth:`figure`."""
        figure = self.figure(data)
        for end in self.drawn:
            target = folder / f"{self.name}{end}"
            figure.savefig(target, bbox_inches="tight", metadata=UNDATED[end[1:]])
            if end == ".png":
                _to_palette(target)
        return figure


def _to_palette(image: Path) -> None:
    """Write a PNG again with 256 colours: it looks the same, and is a third as large."""
    with Image.open(image) as full:
        few = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(image, optimize=True)


@dataclass(frozen=True)
class PublishedTable(_Record):
    """A table of texts, what must be known before it (``scale``), and the note under it (``caption``)."""

    kind: ClassVar[str] = "table"
    drawn: ClassVar[tuple[str, ...]] = (".md", ".tex")
    scale: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        lines = [[self.scale], self.columns, *self.rows]
        if not all(isinstance(cell, str) for line in lines for cell in line):
            raise TypeError("a table's cells, columns and scale have to be texts")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row has not one cell for each of the columns {self.columns}")

    @property
    def data(self) -> list[str]:
        """The CSV file of its numbers."""
        return [f"{self.name}.csv"]

    def write(self, data: Path, folder: Path) -> str:
        """Write it into ``folder`` as Markdown and LaTeX; returns the Markdown of table and note. Needs no ``data``."""
        table = markdown(pd.DataFrame(self.rows, columns=list(self.columns), dtype=str))
        text = f"{table}\n\n{self.caption}"
        (folder / f"{self.name}.md").write_bytes(utf8(f"# {self.name}\n\n{self.scale}\n\n{text}\n"))
        source = latex(self.columns, self.rows, self.name, f"{self.caption} {self.scale}")
        (folder / f"{self.name}.tex").write_bytes(utf8(f"{source}\n"))
        return text


Published = PublishedFigure | PublishedTable
Kind = TypeVar("Kind", PublishedFigure, PublishedTable)
KINDS: dict[str, type[PublishedFigure] | type[PublishedTable]] = {
    cls.kind: cls for cls in (PublishedFigure, PublishedTable)
}


def publish(draw: Draw, name: str, profile: str, caption: str, /, **arguments: Any) -> Figure:
    """Write a figure's data, draw it from them into the profile's folder, and return it, to be shown by the notebook.

    ``draw`` is a public function of a module of itpo.figures, ``arguments`` are its own, by name: data frames, which become CSV
    files (the first ``<name>.csv``, others ``<name>.<argument>.csv``), and values that JSON has, which become part of
    ``<name>.json``. The caption gets the profile's name in front. Half a character (a lone surrogate) becomes U+FFFD.
    A figure of numbers written by hand is published by :func:`publish_by_hand`.

    Errors: TypeError or ValueError for arguments that ``draw`` does not take or that cannot be written, OSError if the disk is
    full; what was published before is then as it was.
    """
    return _publish(draw, name, profile, caption, arguments, by_hand=False)


def publish_by_hand(draw: Draw, name: str, profile: str, caption: str, /, **arguments: Any) -> Figure:
    """As :func:`publish`, for numbers written by hand, which no profile changes: the caption names none.

    >>> style.use_style("00_tour")
    >>> band = pd.DataFrame({"turns": [1, 2], "GRPO": [0.5, 0.2]})
    >>> from itpo.figures.estimators import credit_by_length
    >>> publish_by_hand(credit_by_length, "F_hand", "example", "Made up.", table=band, ylabel="credit").texts[-1].get_text()
    'Made up.'
    >>> import shutil
    >>> shutil.rmtree(style.output_folder("example").parent)
    """
    return _publish(draw, name, profile, caption, arguments, by_hand=True)


def _publish(
    draw: Draw, name: str, profile: str, caption: str, arguments: dict[str, Any], by_hand: bool
) -> Figure:
    inspect.signature(draw).bind(**arguments)
    where = _name_of(draw)
    tables = {argument: value for argument, value in arguments.items() if isinstance(value, pd.DataFrame)}
    values = {argument: value for argument, value in arguments.items() if argument not in tables}
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}; pass data frames, numbers, texts, and lists of them") from None
    if not tables:
        raise ValueError(f"{name}: there is no data frame among the arguments, and so no numbers to publish")
    files = {argument: f"{name}.{argument}.csv" if n else f"{name}.csv" for n, argument in enumerate(tables)}
    empty = {argument: {"file": file, "columns": {}} for argument, file in files.items()}
    record = PublishedFigure(name, profile, style.notebook(), caption, where, empty, values, by_hand)
    with _replacing(record) as folder:
        frames = {
            argument: {"file": file, "columns": write_table(tables[argument], folder / file)}
            for argument, file in files.items()
        }
        return _save(replace(record, frames=frames), folder).write(folder, folder)


def publish_table(
    text: pd.DataFrame, numbers: pd.DataFrame, name: str, profile: str, scale: str, note: str
) -> str:
    """Write a table into the profile's folder as Markdown, LaTeX and CSV (``numbers``); returns Markdown for the notebook.

    ``text`` is the table as people read it, ``scale`` what they must know before any of its numbers.
    """
    columns, rows = [str(column) for column in text.columns], cells(text)
    record = PublishedTable(name, profile, style.notebook(), note, scale, columns, rows)
    with _replacing(record) as folder:
        csv = numbers.to_csv(index=False, float_format=FLOAT, lineterminator="\n")
        (folder / f"{name}.csv").write_bytes(utf8(csv))
        return _save(record, folder).write(folder, folder)


@contextmanager
def _replacing(record: Published) -> Iterator[Path]:
    """A folder for the files of a record, which then replace those of before in the profile's folder."""
    folder = style.output_folder(record.profile)
    finish(folder)
    try:
        old = read(folder / f"{record.name}.json").files
    except PublishedError:
        old = []
    with replacing(folder, record.name, old) as new:
        yield new


def _save(record: Kind, folder: Path) -> Kind:
    """Write a record; returns what readers will find."""
    lines = [f'"kind": "{record.kind}"']
    for field, value in asdict(record).items():
        lines.append(f"{json.dumps(field)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}")
    path = folder / f"{record.name}.json"
    path.write_bytes(utf8("{\n" + ",\n".join(lines) + "\n}\n"))
    return cast(Kind, read(path))


def read(path: Path) -> Published:
    """The figure or table of a ``<name>.json``. Errors: PublishedError if it is none, or is damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        record = KINDS[fields.pop("kind")](**fields)
    except UNREADABLE as error:
        raise PublishedError(_damaged(path, error)) from error
    if record.name != path.stem:
        raise PublishedError(_damaged(path, f"it is named {record.name}"))
    return record


def read_folder(folder: Path) -> list[Published]:
    """All figures and tables of a folder, by name. Errors: PublishedError if there are none, or one cannot be read."""
    finish(folder)
    records = [read(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise PublishedError(
            f"{folder} has no published figures (NAME.json): run notebooks first, make reproduce"
        )
    return records


def redraw(folder: Path) -> Iterator[Published]:
    """Write every image and text table of a folder again from the data beside it, and yield each when it is done.

    Errors: PublishedError for the first that cannot be drawn.
    """
    style.use_style()
    for record in read_folder(folder):
        try:
            with replacing(folder, record.name) as new:
                record.write(folder, new)
        except UNREADABLE as error:
            if type(error) is OSError:  # of the disk, such as a full one, not of the record
                raise
            raise PublishedError(_damaged(folder / f"{record.name}.json", error, record.notebook)) from error
        yield record


def _damaged(path: Path, what: Exception | str, notebook: str = "") -> str:
    reason = f"{type(what).__name__}: {what}" if isinstance(what, Exception) else what
    again = f"run notebook {notebook} again" if notebook else "run the notebook that publishes it again"
    reason = " ".join(reason.split())
    return f"{path} cannot be drawn ({reason}): restore it and its CSV files from the repository, or {again}"


def find_drawing(where: str) -> Draw:
    """The drawing "module.function" of itpo.figures; nothing else can be named so.

    Errors: ValueError if there is none.

    >>> find_drawing("comparison.table_dots").__name__
    'table_dots'
    >>> find_drawing("os.system")
    Traceback (most recent call last):
    ValueError: os.system is no drawing of itpo.figures
    """
    name, _, function = where.partition(".")
    if name in {module.name for module in pkgutil.iter_modules(itpo.figures.__path__)} - TOOLS:
        draw = getattr(importlib.import_module(f"itpo.figures.{name}"), function, None)
        if inspect.isfunction(draw) and _name_of(draw) == where and not function.startswith("_"):
            return draw
    raise ValueError(f"{where} is no drawing of itpo.figures")


def _name_of(draw: Draw) -> str:
    """How a record names a drawing, a function that says of itself that it returns a figure."""
    package, _, module = draw.__module__.rpartition(".")
    drawing = inspect.signature(draw).return_annotation in ("Figure", Figure)
    if package != itpo.figures.__name__ or not drawing:
        raise ValueError(f"{draw.__module__}.{draw.__qualname__} is no drawing of itpo.figures")
    return f"{module}.{draw.__qualname__}"
