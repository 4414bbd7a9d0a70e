"""The gallery: every link leads somewhere, everything is shown once, nothing is fetched; and the committed figures."""

import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import matplotlib
import pandas as pd
import pytest

from itpo.figures import results, style
from itpo.figures.publishing import gallery
from itpo.figures.publishing.registry import (
    PublishedError,
    PublishedFigure,
    PublishedTable,
    publish,
    publish_by_hand,
    publish_table,
    read_folder,
)
from itpo.runs.paths import project_root

BAND = pd.DataFrame({"kind": ["ask"], "success": [True], "mean": [0.3], "low": [0.1], "high": [0.5]})
FIGURES = project_root() / "figures"


class Page(HTMLParser):
    """What a page links, loads and identifies, and its headings and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.articles: list[str] = []
        self.titles: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags[tag] += 1
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if tag == "a" and found.get("href") else []
        self.loaded += [
            value for key, value in attrs if value and (key == "src" or (tag == "link" and key == "href"))
        ]
        if tag == "article":
            self.articles.append(str(found["id"]))
        if tag == "img":
            self.images.append(found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def check(text: str, folder: Path) -> Page:
    """Hold a page to what every gallery promises; returns it."""
    page = Page(text)
    assert sorted(page.articles) == sorted(path.stem for path in folder.glob("*.json"))
    assert len(set(page.ids)) == len(page.ids)
    for link in [*page.links, *page.loaded]:
        assert not re.match(r"[a-z]+:|//|/", link), link
        place, _, fragment = link.partition("#")
        assert (folder / unquote(place)).exists(), link
        assert not fragment or fragment in page.ids, link
    assert page.tags["script"] == page.tags["iframe"] == page.tags["link"] == 0
    assert not re.search(r"url\(|@import", text)
    assert all(image["alt"] and image["width"] and image["loading"] == "lazy" for image in page.images)
    return page


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's figures/ with figures of two notebooks and a table; notebooks/ beside it has one of the two."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("figures", "notebooks"):
        (root / name).mkdir()
    (root / "notebooks" / "02_main.ipynb").write_text("{}")
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context():
        matplotlib.use("Agg")
        patch.setattr(style, "output_folder", lambda profile: root / "figures")
        style.use_style("02_main")
        for name in ("estimators_turns", "band", "F10_kendall", "F04_curves_math", "F02_kinds"):
            caption = f"Caption of {name}: a < b & <script>."
            publish(results.credit_by_kind, name, "laptop", caption, band=BAND)
        style.use_style("03_gone")
        publish(results.credit_by_kind, "F04_curves", "laptop", "c", band=BAND)
        text = pd.DataFrame({"row": ["<i>ITPO</i>"], "gain": ["+1.5"], "n": [3]})
        publish_table(text, text[["n"]], "T1_rloo", "laptop", "Profile `laptop`.", "A **note**, a < b.")
    return root


@pytest.fixture
def folder(tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch, figure_style: None) -> Path:
    """A copy of the figures, into which a test may publish more."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(style, "output_folder", lambda profile: tmp_path / "figures")
    style.use_style("03_gone")
    return tmp_path / "figures"


def test_everything_is_shown_once_in_the_papers_order(folder: Path) -> None:
    assert gallery.build(folder) == folder / "index.html"
    text = (folder / "index.html").read_text()
    page = check(text, folder)
    titles = [gallery.BEGINNING, "F2", "F4", "F10", gallery.SECTIONS[""], "T1"]
    assert [title.partition(".")[0] for title in page.titles] == titles
    order = [
        "band",
        "F02_kinds",
        "F04_curves",
        "F04_curves_math",
        "F10_kendall",
        "estimators_turns",
        "T1_rloo",
    ]
    assert page.articles == order
    assert [image["src"] for image in page.images] == [f"{name}.png" for name in order if name != "T1_rloo"]
    for name in order:
        ends = {"csv", "json"} | ({"md", "tex"} if name == "T1_rloo" else {"pdf", "png"})
        assert {link for link in page.links if link.startswith(f"{name}.")} == {
            f"{name}.{end}" for end in ends
        }
    assert page.links.count("../notebooks/02_main.ipynb") == 5
    assert "notebook 03_gone" in text and "03_gone.ipynb" not in text
    assert gallery.page(folder) == text


def test_pictures_stand_before_tables_and_what_is_made_by_hand_says_so(folder: Path) -> None:
    numbers = BAND[["mean"]]
    publish_table(numbers.astype(str), numbers, "F02_a_table", "laptop", "s", "n")
    publish_by_hand(results.credit_by_kind, "F01_framework", "laptop", "Invented.", band=BAND)
    text = gallery.page(folder)
    articles = Page(text).articles
    assert articles[:4] == ["band", "F01_framework", "F02_kinds", "F02_a_table"]
    assert text.count("made up by hand") == 1
    assert not (folder / "F01_framework.json").read_text().count("[laptop]")


def test_texts_are_escaped_and_tables_are_tables(folder: Path) -> None:
    text = gallery.page(folder)
    assert "Caption of F02_kinds: a &lt; b &amp; &lt;script&gt;." in text
    assert '<th scope="row">&lt;i&gt;ITPO&lt;/i&gt;</th><td>+1.5</td><td>3</td>' in text
    assert "A <strong>note</strong>, a &lt; b." in text and "Profile <code>laptop</code>." in text


@pytest.mark.parametrize(
    "place", ["javascript:alert(1)//.csv", "https://example.org/F02_kinds.csv", "/F02_kinds.csv"]
)
def test_no_address_becomes_a_link(folder: Path, place: str) -> None:
    path = folder / "F02_kinds.json"
    record = json.loads(path.read_text())
    record["frames"]["band"]["file"] = place
    path.write_text(json.dumps(record))
    (folder / "javascript:alert(1)").mkdir()
    (folder / "javascript:alert(1)" / ".csv").write_text("")
    with pytest.raises(PublishedError, match=r"F02_kinds.json .*is not the name of a file of F02_kinds"):
        gallery.build(folder)
    record["frames"]["band"]["file"] = "F02_kinds.csv"
    path.write_text(json.dumps(record | {"notebook": "javascript:alert(1)//"}))
    check(gallery.page(folder), folder)


def test_only_smoke_is_warned_of(folder: Path) -> None:
    assert "its numbers mean nothing" not in gallery.page(folder)
    publish(results.credit_by_kind, "F07_slope", "smoke", "c", band=BAND)
    assert "marked “smoke” was made by the\nprofile smoke" in gallery.page(folder)
    for path in folder.iterdir():
        if not path.name.startswith("F07"):
            path.unlink()
    assert "All of this was made by the\nprofile smoke" in gallery.page(folder)


def test_a_missing_image_and_an_empty_folder_are_errors(folder: Path, tmp_path: Path) -> None:
    (folder / "F02_kinds.pdf").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks F02_kinds\.pdf: .*itpo figures"):
        gallery.build(folder)
    with pytest.raises(PublishedError, match="no published figures"):
        gallery.build(tmp_path)


# What a browser lays out: that no two parts lie on each other and that no text is cut off.
MEASURE = """\
<!doctype html><body><iframe src="index.html" width="WIDTH" height="9000" style="border:0"></iframe><script>
addEventListener("load", () => setTimeout(() => {
  const page = document.querySelector("iframe").contentDocument;
  const box = part => part.getBoundingClientRect();
  const name = part => part.outerHTML.slice(0, 80);
  const parts = [...page.querySelectorAll("h1, h2, nav, header > p, .head, img, figcaption, .note, .scroll, .links")];
  const cross = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  document.body.textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    images: [...page.images].map(image => image.naturalWidth),
    outside: parts.filter(part => box(part).left < -1 || box(part).right > WIDTH + 1).map(name),
    overlapping: parts.flatMap((a, n) => parts.slice(n + 1).filter(b => cross(box(a), box(b))).map(b => [name(a), name(b)])),
    clipped: [...page.querySelectorAll("h1, h2, h3, p, figcaption, a, .badge, td, th")]
      .filter(part => part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflow === "hidden").map(name),
    silent: [...page.images].filter(image => !image.alt.trim()).map(name),
  });
}, 500));
</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it_on_wide_and_narrow_screens(folder: Path, tmp_path: Path, width: int) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    assert browser, f"no browser here: install one of {', '.join(names)}"
    gallery.build(folder)
    (folder / "measure.html").write_text(MEASURE.replace("WIDTH", str(width)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=20000", "--dump-dom"]
    command = [browser, *options, (folder / "measure.html").as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = json.loads(re.search(r"\{.*\}", dumped)[0])
    assert found["width"] == width, "nothing may have to be scrolled sideways but tables"
    assert [found[fault] for fault in ("outside", "overlapping", "clipped", "silent")] == [[], [], [], []]
    assert len(found["images"]) == 6 and all(found["images"])


# What is committed


def test_the_committed_folder_holds_what_is_published_and_nothing_else() -> None:
    records = read_folder(FIGURES)
    files = {
        file for r in records for file in (*r.data, f"{r.name}.json", *(f"{r.name}{end}" for end in r.drawn))
    }
    assert {path.name for path in FIGURES.iterdir()} == files | {"index.html"}
    assert "smoke" not in {record.profile for record in records}
    assert all(path.stat().st_size < 300_000 for path in FIGURES.iterdir())
    notebooks = project_root() / "notebooks"
    assert all((notebooks / f"{record.notebook}.ipynb").is_file() for record in records)


def test_the_committed_page_is_that_of_the_committed_figures() -> None:
    text = (FIGURES / "index.html").read_text(encoding="utf-8")
    check(text, FIGURES)
    assert text == gallery.page(FIGURES)


def test_the_committed_data_give_figures_and_the_committed_tables(tmp_path: Path, figure_style: None) -> None:
    for record in read_folder(FIGURES):
        if isinstance(record, PublishedFigure):
            assert record.figure(FIGURES).axes, record.name
        if isinstance(record, PublishedTable):
            record.write(FIGURES, tmp_path)
            for end in record.drawn:
                name = f"{record.name}{end}"
                assert (tmp_path / name).read_bytes() == (FIGURES / name).read_bytes(), name
