"""All published figures and tables on one static page, ``index.html``, the main ones first; it opens from disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from itpo.figures.publishing.encoding import utf8
from itpo.figures.publishing.formats import html_marks
from itpo.figures.publishing.registry import Published, PublishedFigure, read_folder
from itpo.runs.files import explain_full_disk, write_file

# The pictures that matter most, by name, in this order: they begin the page.
FIRST = ("ledger_forest", "band", "T1_dots", "microscope", "F01_framework")
BEGINNING = "The main results in five pictures"
# What begins the names of other figures and tables, and what they show: the paper's order, our own, all others, then tables.
SECTIONS: Mapping[str, str] = {
    "F1": "The framework",
    "F2": "Turn and token rewards of one dialogue over training",
    "F3": "How soon rewards settle",
    "F4": "Speed of learning, RLOO",
    "F5": "Kendall's tau of implicit return and outcome, RLOO",
    "F6": "Agreement of ITPO and Norm-ITPO on the order of turns",
    "F7": "Slope of the implicit reward on the outcome",
    "F8": "Speed of learning, GRPO",
    "F9": "Speed of learning, PPO",
    "F10": "Kendall's tau, GRPO",
    "F11": "Kendall's tau, PPO",
    "F12": "How soon rewards settle: document writing",
    "F13": "How soon rewards settle: medical recommendation",
    "F14": "Rewards over training: a document",
    "F15": "Rewards over training: a medical case",
    "F16": "Length of dialogues during training",
    "F17": "Turns of dialogues during training",
    "F18": "Eta, beta, size of the base model, updates of the PRM (F18 to F20)",
    "F21": "The best and the worst turn",
    "F22": "Dialogues before and after training",
    "F23": "Credit fidelity",
    "microscope": "The gradient microscope",
    "regimes": "A map of regimes",
    "band": "Gains over learning rates",
    "": "Further figures and tables",
    "ledger": "The replication ledger",
    "T1": "Main results in numbers",
    "T2": "Agreement on the best and the worst turn",
}
FORMATS = {".csv": "numbers", ".pdf": "PDF", ".tex": "LaTeX", ".md": "Markdown", ".json": "record"}


@dataclass(frozen=True)
class Entry:
    """A published figure or table as the page shows it: links are relative to the page, ``size`` is that of the image."""

    record: Published
    links: Mapping[str, str]
    notebook: str | None
    size: tuple[int, int] | None

    @property
    def is_figure(self) -> bool:
        """Whether it is an image."""
        return isinstance(self.record, PublishedFigure)

    @property
    def by_hand(self) -> bool:
        """Whether no run is in it."""
        return isinstance(self.record, PublishedFigure) and self.record.by_hand


def section_of(name: str) -> str:
    """The key of the section that a figure or table belongs to, empty for none of its own.

    >>> section_of("F04_speed"), section_of("T1"), section_of("ledger_cells"), section_of("F_costs_real")
    ('F4', 'T1', 'ledger', '')
    """
    key = re.sub(r"^F0", "F", name.partition("_")[0])
    return key if key in SECTIONS else ""


def build(folder: Path) -> Path:
    """Write the page of all that is published in a folder beside it; returns its path. Errors: those of :func:`page`."""
    target = folder / "index.html"
    with explain_full_disk(folder):
        write_file(target, utf8(page(folder)))
    return target


def page(folder: Path) -> str:
    """The page of all that is published in a folder, as HTML.

    Errors: PublishedError if there is nothing, or it cannot be read; FileNotFoundError for a file that a figure lacks.
    """
    records = read_folder(folder)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["marks"] = html_marks
    return templates.get_template("gallery.html").render(
        sections=_sections([_entry(record, folder) for record in records]),
        profiles={record.profile for record in records},
    )


def _sections(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """What stands under each title, from top to bottom; in every section figures stand before tables."""
    first = [entry for name in FIRST for entry in entries if entry.record.name == name]
    others = sorted((e for e in entries if e not in first), key=lambda entry: not entry.is_figure)
    sections = {BEGINNING: first}
    for key, title in SECTIONS.items():
        heading = f"{key}. {title}" if key[-1:].isdigit() else title
        sections[heading] = [entry for entry in others if section_of(entry.record.name) == key]
    return {title: part for title, part in sections.items() if part}


def _entry(record: Published, folder: Path) -> Entry:
    if missing := [file for file in record.files if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: draw images and text tables with python -m itpo figures; numbers (CSV) "
            "are in the repository, or are written by the notebook"
        )
    image = folder / f"{record.name}.png"
    links = {_link_text(file, record.name): file for file in record.files if file != image.name}
    size = None
    if image.name in record.files:
        with Image.open(image) as opened:
            size = opened.size
    return Entry(record, links, _notebook(record, folder), size)


def _link_text(file: str, name: str) -> str:
    """What a link to a file of a figure says: the numbers of an argument are named after it."""
    text = FORMATS[Path(file).suffix]
    middle = file.removeprefix(name).removesuffix(Path(file).suffix).strip(".")
    return f"{text}: {middle}" if middle else text


def _notebook(record: Published, folder: Path) -> str | None:
    """The way from the page to the notebook, in notebooks/ or, for reduced profiles, beside the folder."""
    places = (f"../notebooks/{record.notebook}.ipynb", f"../{record.notebook}.ipynb")
    return next((place for place in places if (folder / place).is_file()), None)
