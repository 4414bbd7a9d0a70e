"""Pages of the documentation that are made from the rest of the repository; a hook of mkdocs (``mkdocs.yml``).

The first page is the README. Notebooks are shown as they were run, with their pictures; figures are taken from where
they are. Each package of the library has a page of its public functions and classes, from their docstrings. Links are
written for the repository, and set for the site here. Formulas become MathML, which browsers draw without a script.
"""

import os
import re
import shutil
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ABOUT = ("CHANGELOG.md", "CONTRIBUTING.md")
FIGURES = ("*.png", "*.pdf", "*.html", "*.csv", "*.json", "*.tex", "*.md")
_LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<path>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the notebooks and the packages of the library, of which new ones appear by themselves."""
    for entry in config.nav or []:
        if "Notebooks" in entry:
            entry["Notebooks"] = [{path.stem: f"notebooks/{path.stem}.md"} for path in NOTEBOOKS]
        if "Python" in entry:
            entry["Python"] = [{title: f"api/{title}.md"} for title in _parts()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in ``docs/``."""

    def add(name: str, content: str | bytes) -> None:
        files.append(File.generated(config, name, content=content))

    for source, name in [("README.md", "index.md"), *((name, name) for name in ABOUT)]:
        add(name, (ROOT / source).read_text(encoding="utf-8"))
    for path in NOTEBOOKS:
        text, resources = MarkdownExporter().from_filename(str(path), {"unique_key": path.stem})
        # Solutions are folded, and what is folded is Markdown too.
        add(f"notebooks/{path.stem}.md", text.replace("<details>", '<details markdown="1">'))
        for name, content in resources["outputs"].items():
            add(f"notebooks/{name}", content)
    for title in _parts():
        add(f"api/{title}.md", _reference(title))
    figures = sorted(path for pattern in FIGURES for path in (ROOT / "figures").glob(pattern))
    for path in [*NOTEBOOKS, *figures]:
        source = path.relative_to(ROOT).as_posix()
        files.append(File(source, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Put the tables in Markdown, which became pages, beside these as they are: the gallery leads to them."""
    for path in (ROOT / "figures").glob("*.md"):
        shutil.copy(path, Path(config.site_dir) / "figures")


def on_page_markdown(text: str, page: Page, files: Files, **_: object) -> str:
    """Set the links of a page, which are those of its source; one to a file that the site lacks becomes its text."""
    name = page.file.src_uri
    if name.startswith("api/"):
        return text
    folder = ROOT / (
        "" if name in ("index.md", *ABOUT) else "notebooks" if name.startswith("notebooks/") else "docs"
    )

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match["path"]))
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]
        place = _place(target.relative_to(ROOT))
        if files.get_file_from_path(place) is None:
            return match["text"].strip("[]")
        return f"{match['text']}({os.path.relpath(place, Path(name).parent)}{match['anchor'] or ''})"

    # Two marks of sources side by side, such as those of C and S, would be read as a link.
    return re.sub(r"(?<=\])\[([CPSO])\]", r"\\[\1]", _LINK.sub(link, text))


def on_page_content(html: str, **_: object) -> str:
    """Draw the formulas, which `pymdownx.arithmatex` has marked, and data frames like other tables."""
    html = html.replace('<table border="1" class="dataframe">', "<table>")

    def drawn(formula: re.Match[str]) -> str:
        text, number = unescape(formula[2]), ""
        if tag := re.search(r"\\tag\{(.*?)\}", text):
            text, number = text.replace(tag[0], ""), rf"\qquad({tag[1]})"
        return convert(text + number, display="block" if formula[1] == "div" else "inline")

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', drawn, html, flags=re.DOTALL)


def _place(path: Path) -> str:
    """Where a file of the repository is in the site."""
    if path.parts[0] == "docs":
        return Path(*path.parts[1:]).as_posix()
    if path.parts[0] == "notebooks" and path.suffix in (".ipynb", ".py"):
        return path.with_suffix(".md").as_posix()
    return {"README.md": "index.md"}.get(path.name, path.as_posix())


def _parts() -> list[str]:
    """The package and those within it."""
    return ["itpo", *(f"itpo.{path.parent.name}" for path in sorted((ROOT / "itpo").glob("*/__init__.py")))]


def _reference(title: str) -> str:
    """A page that names every module of a package, but the private ones, for mkdocstrings to fill."""
    folder = ROOT.joinpath(*title.split("."))
    paths = sorted(folder.glob("*.py") if title == "itpo" else folder.rglob("*.py"))
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    shown = [name for name in names if name != "itpo" and not name.rpartition(".")[2].startswith("_")]
    return "\n\n".join([f"# {title}", *(f"::: {name}" for name in shown)]) + "\n"
