"""The pages of `docs/`: their example, the files that they name, and the check of the site's links."""

import re
from pathlib import Path

import pytest
from check_site import faults

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ('<h1 id="top">x</h1><a href="#top">up</a><a href="other.html#there">on</a>', []),
        (
            '<a href="sub/">a folder</a><a href="https://example.org/">elsewhere</a><a href="mailto:a@b">m</a>',
            [],
        ),
        ('<a href="gone.html">x</a>', ["page.html: gone.html is not there"]),
        ('<a href="other.html#nowhere">x</a>', ["page.html: other.html#nowhere has no such anchor"]),
        ('<img src="gone.png">', ["page.html: gone.png is not there"]),
        ('<script src="https://example.org/a.js"></script>', ["page.html: loads https://example.org/a.js"]),
        ('<link rel="stylesheet" href="//example.org/a.css">', ["page.html: loads //example.org/a.css"]),
        ('<link rel="canonical" href="https://example.org/">', []),
    ],
)
def test_a_dead_link_and_what_is_loaded_from_elsewhere_are_found(
    page: str, wrong: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text("")
    (tmp_path / "other.html").write_text('<p id="there">')
    (tmp_path / "page.html").write_text(page)
    assert faults(tmp_path) == wrong


def test_files_that_the_pages_name_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    names = re.findall(r"`((?:itpo|tests|tools|benchmarks|figures)/[\w/]*(?:\.\w+)?)`", text)
    names += re.findall(r"\]\(\.\./([^)#]+)\)", text)
    assert len(names) > 30
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_example_of_one_function_gives_what_it_says() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    code, said = re.search(r"```python\n(.*?)(attribution\.norm_itpo.*?)\n```", page, re.DOTALL).groups()
    call, result = said.split("\n# ")
    names: dict[str, object] = {}
    exec(f"{code}\nresult = {call}", names)
    assert repr(names["result"]) == result
