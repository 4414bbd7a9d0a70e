"""Figures and tables as the notebooks publish them: each can be drawn again from small text files, without any run.

:func:`publish` writes the arguments of a drawing as data, reads them back, and draws what it has read. So what stands beside an
image is all that is in it, and :func:`redraw` makes the same image from it. One JSON file for each figure and table,
``<name>.json``, says what the other files ``<name>.*`` are made of.

>>> import shutil
>>> from itpo.figures.publishing import gallery
>>> from itpo.figures.results import credit_by_kind
>>> style.use_style("00_tour")
>>> band = pd.DataFrame({"kind": ["press", "check"], "success": True, "mean": [0.1, 0.2], "low": 0.0, "high": 0.3})
>>> figure = style.shown_once(publish(credit_by_kind, "F01_credit", "example", "Credit of two turns.", band=band))
>>> print(publish_table(band[["kind"]], band, "T_credit", "example", "Two turns.", "Their kinds."))
| kind |
|---|
| press |
| check |
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import pandas as pd
from matplotlib.figure import Figure

import itpo.figures
from itpo.figures import style
from itpo.figures.publishing.encoding import FLOAT, decode, encode, write_table
from itpo.figures.publishing.formats import cells, latex, markdown

Draw = Callable[..., Figure]
TOOLS = {"publishing", "style"}  # modules beside the drawings that hold none
# No file says when it was made, or by which version: the same data give the same bytes.
UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


class PublishedError(Exception):
    """A published figure or table that cannot be read or drawn again; says which, why, and what to do."""


@dataclass(frozen=True)
class _Record:
    """What figures and tables have in common; ``data`` are the CSV files beside it, the one with the numbers first."""

    name: str
    profile: str
    notebook: str
    caption: str
    data: Sequence[str]


@dataclass(frozen=True)
class PublishedFigure(_Record):
    """A drawing and its data: ``draw`` is "module.function" within itpo.figures, ``arguments`` are as they are encoded."""

    kind: ClassVar[str] = "figure"
    drawn: ClassVar[tuple[str, ...]] = (".png", ".pdf")
    draw: str
    arguments: Mapping[str, Any]

    def figure(self, folder: Path) -> Figure:
        """Draw it from the data in ``folder``, with its caption.

        Errors: ValueError, TypeError, KeyError or OSError if the data are not those of such a figure.
        """
        draw, module = find_drawing(self.draw)
        arguments = {name: decode(value, module, folder) for name, value in self.arguments.items()}
        figure = draw(**arguments)
        return style.add_caption(figure, f"[{self.profile}] {self.caption}")

    def write(self, folder: Path) -> Figure:
        """Draw it into ``folder`` from the data there, as PNG and PDF. Errors: those of :meth:`figure`."""
        figure = self.figure(folder)
        for end in self.drawn:
            target = folder / f"{self.name}{end}"
            figure.savefig(target, bbox_inches="tight", metadata=UNDATED[end[1:]])
        return figure


@dataclass(frozen=True)
class PublishedTable(_Record):
    """A table of texts, what must be known before it (``scale``), and the note under it (``caption``)."""

    kind: ClassVar[str] = "table"
    drawn: ClassVar[tuple[str, ...]] = (".md", ".tex")
    scale: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def write(self, folder: Path) -> str:
        """Write it into ``folder`` as Markdown and LaTeX; returns the Markdown of table and note."""
        table = markdown(pd.DataFrame(self.rows, columns=list(self.columns), dtype=str))
        text = f"{table}\n\n{self.caption}"
        (folder / f"{self.name}.md").write_text(
            f"# {self.name}\n\n{self.scale}\n\n{text}\n", encoding="utf-8"
        )
        source = latex(self.columns, self.rows, self.name, f"{self.caption} {self.scale}")
        (folder / f"{self.name}.tex").write_text(f"{source}\n", encoding="utf-8")
        return text


Published = PublishedFigure | PublishedTable
Record = TypeVar("Record", PublishedFigure, PublishedTable)
KINDS: dict[str, type[PublishedFigure] | type[PublishedTable]] = {
    cls.kind: cls for cls in (PublishedFigure, PublishedTable)
}


def publish(
    draw: Draw,
    name: str,
    profile: str,
    caption: str,
    /,
    *,
    numbers: pd.DataFrame | None = None,
    **arguments: Any,
) -> Figure:
    """Write a figure's data, draw it from them into the profile's folder, and return it, to be shown by the notebook.

    ``draw`` is a public function of a module of itpo.figures, ``arguments`` are its own, by name. Data frames become CSV files
    (the first ``<name>.csv``, others ``<name>.<argument>.csv``), other values part of ``<name>.json``; see
    :func:`itpo.figures.publishing.encoding.encode` for what they may be. A function that takes no data frame needs ``numbers``, written
    to ``<name>.csv`` for readers. The caption gets the profile's name in front.

    Errors: TypeError or ValueError for arguments that ``draw`` does not take or that cannot be written.
    """
    inspect.signature(draw).bind(**arguments)
    where = _name_of(draw)
    module = find_drawing(where)[1]
    folder = _cleared(name, profile)
    tables = [argument for argument, value in arguments.items() if isinstance(value, pd.DataFrame)]
    if numbers is None and not tables:
        raise ValueError(f"{name}: there is no data frame among the arguments; pass its numbers=")
    files = {argument: f"{name}.{argument}.csv" for argument in tables}
    if numbers is None:
        files[tables[0]] = f"{name}.csv"
    else:
        numbers.to_csv(folder / f"{name}.csv", index=False, float_format=FLOAT, lineterminator="\n")
    written = {
        argument: {"table": files[argument], "columns": write_table(value, folder / files[argument])}
        if argument in files
        else encode(value, module)
        for argument, value in arguments.items()
    }
    data = sorted({f"{name}.csv", *files.values()}, key=lambda file: (file != f"{name}.csv", file))
    record = PublishedFigure(name, profile, style.notebook(), caption, data, where, written)
    return _saved(record, folder).write(folder)


def publish_table(
    text: pd.DataFrame, numbers: pd.DataFrame, name: str, profile: str, scale: str, note: str
) -> str:
    """Write a table into the profile's folder as Markdown, LaTeX and CSV (``numbers``); returns Markdown for the notebook.

    ``text`` is the table as people read it, ``scale`` what they must know before any of its numbers.
    """
    folder = _cleared(name, profile)
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format=FLOAT, lineterminator="\n")
    columns, rows = [str(column) for column in text.columns], cells(text)
    record = PublishedTable(name, profile, style.notebook(), note, [f"{name}.csv"], scale, columns, rows)
    return _saved(record, folder).write(folder)


def _cleared(name: str, profile: str) -> Path:
    """The profile's folder without the files of an earlier figure or table of that name."""
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"{name!r} cannot name a figure: use letters, digits, _ and -")
    folder = style.output_folder(profile)
    for old in folder.glob(f"{name}.*"):
        old.unlink()
    return folder


def _saved(record: Record, folder: Path) -> Record:
    """Write a record and read it back: what cannot be read would otherwise be noticed only when it is to be redrawn."""
    path = folder / f"{record.name}.json"
    lines = [f'"kind": "{record.kind}"']
    for field, value in asdict(record).items():
        lines.append(f"{json.dumps(field)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    found = read(path)
    assert isinstance(found, type(record))
    return found


def read(path: Path) -> Published:
    """The figure or table of a ``<name>.json``. Errors: PublishedError if it is none, or is damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        record = KINDS[fields.pop("kind")](**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishedError(_damaged(path, error)) from error
    if record.name != path.stem:
        raise PublishedError(_damaged(path, f"it is named {record.name}"))
    return record


def read_folder(folder: Path) -> list[Published]:
    """All figures and tables of a folder, by name. Errors: PublishedError if there are none, or one cannot be read."""
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
            record.write(folder)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise PublishedError(_damaged(folder / f"{record.name}.json", error, record.notebook)) from error
        yield record


def _damaged(path: Path, what: Exception | str, notebook: str = "") -> str:
    reason = f"{type(what).__name__}: {what}" if isinstance(what, Exception) else what
    again = f"run notebook {notebook} again" if notebook else "run the notebook that publishes it again"
    return f"{path} cannot be drawn ({reason}): restore it and its CSV files from the repository, or {again}"


def find_drawing(where: str) -> tuple[Draw, ModuleType]:
    """The drawing "module.function" of itpo.figures, and its module; nothing else can be named so.

    Errors: ValueError if there is none.

    >>> find_drawing("results.learning_curves")[0].__name__
    'learning_curves'
    >>> find_drawing("os.system")
    Traceback (most recent call last):
    ValueError: os.system is no drawing of itpo.figures
    """
    name, _, function = where.partition(".")
    if name in {found.name for found in pkgutil.iter_modules(itpo.figures.__path__)} - TOOLS:
        module = importlib.import_module(f"itpo.figures.{name}")
        draw = getattr(module, function, None)
        if inspect.isfunction(draw) and _name_of(draw) == where and not function.startswith("_"):
            return draw, module
    raise ValueError(f"{where} is no drawing of itpo.figures")


def _name_of(draw: Draw) -> str:
    """How a record names a drawing, a function that says of itself that it returns a figure."""
    package, _, module = draw.__module__.rpartition(".")
    drawing = inspect.signature(draw).return_annotation in ("Figure", Figure)
    if package != itpo.figures.__name__ or not drawing:
        raise ValueError(f"{draw.__module__}.{draw.__qualname__} is no drawing of itpo.figures")
    return f"{module}.{draw.__qualname__}"
