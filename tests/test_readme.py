"""The README is short and plain, and what it names and says is there and true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ANSWER = README.split("\n## The answer\n")[1].split("\n## ")[0]
# In words: no code, tables, addresses, or lists of links.
PROSE = re.sub(
    r"```.*?```|^(    |\||#|!\[).*$|\]\([^)]*\)|`[^`]*`", "", README, flags=re.DOTALL | re.MULTILINE
)


def test_it_is_short() -> None:
    assert len(README.encode()) <= 10_000


def test_its_sentences_are() -> None:
    sentences = [
        " ".join(s.split()) for part in PROSE.split("\n\n") for s in re.split(r"[.?:;](?=\s|$)", part)
    ]
    long = [sentence for sentence in sentences if len(sentence.replace("·", "").split()) > 25]
    assert long == []


def test_every_file_that_it_links_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    local = [link for link in links if "://" not in link]
    assert len(local) > 20
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_every_notebook_is_linked() -> None:
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert [name for name in names if f"[{name}](notebooks/{name}.ipynb)" not in README] == []


def test_every_page_is_linked() -> None:
    pages = [path.name for path in (ROOT / "docs").glob("*") if path.suffix in (".md", ".html")]
    assert [page for page in pages if f"(docs/{page})" not in README] == []


def test_every_target_and_command_that_it_names_exists() -> None:
    from typer.main import get_command

    from itpo.apps.command_line import app

    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = set(re.findall(r"^    itpo ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"reproduce", "test"} < targets <= known
    assert {"train", "runs", "chat", "export"} <= commands <= set(get_command(app).commands)


def test_its_example_of_one_function_gives_what_it_says() -> None:
    blocks = re.findall(r"```python\n(.*?)\n```", README, re.DOTALL)
    (block,) = (block for block in blocks if "attribution.norm_itpo" in block)
    code, call, result = re.fullmatch(r"(.*)\n(attribution.*)\n# (.*)", block, re.DOTALL).groups()
    names: dict[str, object] = {}
    exec(f"{code}\nresult = {call}", names)
    assert repr(names["result"]) == result


def test_its_example_of_training_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)\n```", README, re.DOTALL)
    (block,) = (block for block in blocks if "train_policy" in block)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block.replace("seed=1)", 'seed=1, profile="smoke", steps=1, store="runs")'), names)
    assert names["run"].done
