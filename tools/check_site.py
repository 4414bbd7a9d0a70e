"""Check a folder of HTML pages: every link within it leads somewhere, and nothing is loaded from elsewhere.

python tools/check_site.py build/site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
# What points at a page without loading it.
RELATIONS = {"canonical", "next", "prev"}


class Page(HTMLParser):
    """The anchors of a page, its links, and what a browser loads to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one tag refers to."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        target = given.get(LOADED.get(tag, "href"), "")
        if tag in LOADED and given.get("rel") not in RELATIONS and target:
            self.loaded.append(target)
        if target:
            self.links.append(target)


def faults(site: Path) -> list[str]:
    """What is wrong, a line for each: a link to what is not there, or something loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        found += [f"{where}: loads {name}" for name in page.loaded if urlsplit(name).netloc]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{where}: {link} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {link} has no such anchor")
    return sorted(set(found))


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print(
        "\n".join(wrong)
        or f"every link within {sys.argv[1]} leads somewhere, and nothing is loaded from elsewhere"
    )
    sys.exit(1 if wrong else 0)
