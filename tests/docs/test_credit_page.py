"""The page that computes turn credit: its numbers are those of itpo, its controls move them, and it can be read everywhere."""

import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import quickjs
import torch
from make_credit_page import METHODS, PAGE, fill_page, read_page

from itpo import advantages, turns
from itpo.attribution import attribute, get_method
from itpo.estimators import estimate, method_sources

TEXT = PAGE.read_text(encoding="utf-8")
DATA = read_page(TEXT)
BASELINES = advantages.BASELINES
READS_ETA = ("norm_itpo", "signed_norm_itpo")
READS_BETA = (*READS_ETA, "itpo", "prime")
SPLITS_NONE = ("itpo", "prime")
MEASURES = ("prm", "shares", "returns", "centred", "advantages")
EXACT = 1e-9  # both compute in 64 bits; sums are taken in another order


def choices(etas: tuple[float, ...], betas: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Every choice on the page that can change a number."""
    for method in METHODS:
        yield from (
            {"method": method, "baseline": baseline, "eta": eta, "beta": beta, "beside": beside}
            for baseline in (BASELINES if method != "signed_norm_itpo" else BASELINES[:1])
            for eta in (etas if method in READS_ETA else etas[:1])
            for beta in (betas if method in READS_BETA else betas[:1])
            for beside in ((False, True) if method in SPLITS_NONE else (True,))
        )


# What itpo computes


def tensors(batch: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The signals of a batch of equal groups: a user's token before every turn."""
    rollouts = list(itertools.chain(*batch))
    ids = [[n for k, turn in enumerate(r["log_ratios"]) for n in (-1, *[k] * len(turn))] for r in rollouts]
    ratios = [[q for turn in r["log_ratios"] for q in (9.0, *turn)] for r in rollouts]
    width, most = max(map(len, ids)), max(len(r["judge"]) for r in rollouts)

    def padded(rows: list[list[Any]], size: int, fill: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (size - len(row))] for row in rows], dtype=dtype)

    return {
        "turn_ids": padded(ids, width, -1, torch.int64),
        "ratios": padded(ratios, width, 9.0, torch.float64),
        "outcome": torch.tensor([r["outcome"] for r in rollouts], dtype=torch.float64),
        "judge_scores": padded([r["judge"] for r in rollouts], most, 0.0, torch.float64),
        "group_size": len(batch[0]),
    }


def expected(batch: list[list[dict[str, Any]]], choice: dict[str, Any]) -> list[dict[str, Any]]:
    """What the turns of each rollout get by the library."""
    given = tensors(batch)
    ids, method, size = given["turn_ids"], choice["method"], given["group_size"]
    mask = ids >= 0
    given["response_mask"] = mask
    given["token_rewards"] = choice["beta"] * torch.where(mask, given["ratios"], 0)
    given |= {"temperature": choice["eta"]} if method in READS_ETA else {}
    sources = method_sources(method, given, outcome_coef=float(choice["beside"]))
    sources = [source for source in sources if source.name != "length"]
    size = 1 if get_method(method).compares else size
    baselined = [advantages.rloo(s.rewards, s.positions, size, choice["baseline"]) for s in sources]
    by_token = {
        "returns": advantages.returns(torch.stack([source.rewards for source in sources]).sum(0), mask),
        "centred": advantages.returns(torch.stack(baselined).sum(0), mask),
    }
    credit = estimate("rloo", sources, response_mask=mask, group_size=size, baseline=choice["baseline"])
    has_turn = turns.turn_mask(ids)
    first = (ids[:, None] == torch.arange(has_turn.shape[1])[:, None]).int().argmax(-1)
    found = {name: values.gather(1, first) for name, values in by_token.items()}
    found["prm"] = turns.aggregate(given["token_rewards"], ids)
    found["advantages"] = turns.aggregate(credit.advantages, ids, "mean")
    if method not in SPLITS_NONE:
        found["shares"] = _shares(method, given, found["returns"])
    return [
        {name: values[row][has_turn[row]].tolist() for name, values in found.items()}
        for row in range(len(ids))
    ]


def _shares(method: str, given: dict[str, Any], returns: torch.Tensor) -> torch.Tensor:
    """What a method makes of an outcome of 1; of signed Norm-ITPO, K w A by K and A, and nan where A is 0."""
    ids = given["turn_ids"]
    if method != "signed_norm_itpo":
        whole = attribute(method, **{**given, "outcome": torch.ones_like(given["outcome"])})
        return turns.aggregate(whole, ids)
    outcomes = given["outcome"].view(-1, given["group_size"])
    others = (outcomes.sum(1, keepdim=True) - outcomes) / (given["group_size"] - 1)
    return returns / ((outcomes - others).flatten() * turns.turn_mask(ids).sum(1))[:, None]


def assert_equal(found: dict[str, Any], wanted: dict[str, Any], where: Any) -> None:
    for name in MEASURES:
        if name == "shares" and name not in wanted:
            assert found[name] is None, where
            continue
        known = [
            (a, b) for a, b in zip(found[name], wanted[name], strict=True) if math.isfinite(b)
        ]  # A of 0 has no sign
        assert all(abs(a - b) < EXACT for a, b in known), (where, name, known)


# The page's functions, in an engine without a browser


@pytest.fixture(scope="module")
def script() -> quickjs.Context:
    context = quickjs.Context()
    code = re.search(r'<script id="credit">(.*?)</script>', TEXT, re.DOTALL)
    assert code
    context.eval(code[1])
    return context


def computed(script: quickjs.Context, batch: Any, choice: Any) -> list[list[dict[str, Any]]]:
    return json.loads(script.eval(f"JSON.stringify(credit({json.dumps(batch)}, {json.dumps(choice)}))"))


def batch_of(task: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [problem["rollouts"] for problem in task["problems"]]


@pytest.mark.parametrize("task", DATA["tasks"], ids=lambda task: task["name"])
@pytest.mark.usefixtures("unchecked")  # shapes are checked elsewhere, and here it would take most of the time
def test_every_number_is_that_of_the_library(script: quickjs.Context, task: dict[str, Any]) -> None:
    batch, count = batch_of(task), 0
    for choice in choices(etas=(0.01, 0.4, 10.0), betas=(task["beta"], 1.0)):
        found, wanted = computed(script, batch, choice), expected(batch, choice)
        for number, (one, other) in enumerate(zip(itertools.chain(*found), wanted, strict=True)):
            assert_equal(one, other, (choice, number))
            count += 1
    assert count == 32 * (3 * 3 + 2 * 3 * 2 * 2 + 3 * 2 * 3 + 3 * 2)


def rollout(outcome: float, *log_ratios: list[float], judge: list[float] | None = None) -> dict[str, Any]:
    scores = judge or [0.0] * len(log_ratios)
    return {"outcome": outcome, "log_ratios": list(log_ratios), "judge": scores}


EDGES = {
    "alone": [[rollout(1.0, [0.5], [0.1, -2.0])], [rollout(0.0, [1.0])]],
    "all alike": [[rollout(0.5, [0.2, 0.1], [0.3])] * 3],
    "one turn and many": [
        [rollout(1.0, [3.0]), rollout(0.25, [0.1], [0.2], [0.3], [-800.0], judge=[0, 2, 1, 0])]
    ],
    "all failed": [[rollout(0.0, [1.0], [2.0]), rollout(0.0, [-1.0])]],
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.usefixtures("unchecked")
def test_numbers_at_the_edges_are_those_of_the_library(script: quickjs.Context, name: str) -> None:
    for choice in choices(etas=(0.01, 0.4), betas=(0.2,)):
        found = computed(script, EDGES[name], choice)
        for one, other in zip(itertools.chain(*found), expected(EDGES[name], choice), strict=True):
            assert_equal(one, other, choice)


def test_what_the_page_asks_to_try_is_so(script: quickjs.Context) -> None:
    """Norm-ITPO blames all alike, the signed one turns of low reward; η goes from one turn to all; ITPO praises failures."""
    praised = 0
    for task in DATA["tasks"]:
        batch, common = batch_of(task), {"beta": task["beta"], "beside": False}
        cold, cool, warm, signed, own = (
            computed(script, batch, {"method": method, "eta": eta, "baseline": baseline, **common})
            for method, eta, baseline in (
                ("norm_itpo", 0.01, "trajectory"),
                ("norm_itpo", 0.1, "trajectory"),
                ("norm_itpo", 10.0, "trajectory"),
                ("signed_norm_itpo", 0.1, "released"),
                ("itpo", 0.4, "to_go"),
            )
        )
        for g, group in enumerate(batch):
            outcomes = [one["outcome"] for one in group]
            best, worst = outcomes.index(max(outcomes)), outcomes.index(min(outcomes))
            assert max(cold[g][best]["shares"]) > 0.5
            shares = warm[g][best]["shares"]
            assert max(shares) - min(shares) < 0.03
            blame, likes = signed[g][worst]["centred"], signed[g][worst]["prm"]
            assert max(blame) < 0 and blame.index(min(blame)) == likes.index(min(likes))
            if not outcomes[worst]:
                centred = cool[g][worst]["centred"]
                assert max(centred) - min(centred) < EXACT and len(set(cool[g][worst]["shares"])) > 1
            praised += max(own[g][worst]["advantages"]) > 0
    assert praised


# What the page holds


class Parts(HTMLParser):
    """Tags and their attributes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_small_and_asks_no_network() -> None:
    assert PAGE.stat().st_size < 200_000
    parts = Parts()
    parts.feed(TEXT)
    assert not [tag for tag in parts.tags if {"src", "href", "srcset"} & tag[1].keys()]
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|innerHTML|eval\(", TEXT)


def test_methods_have_the_labels_and_colours_of_all_figures() -> None:
    wanted = [(name, get_method(name).label, get_method(name).color) for name in METHODS]
    assert [(m["name"], m["label"], m["color"]) for m in DATA["methods"]] == wanted


def test_the_dialogues_are_whole() -> None:
    for task in DATA["tasks"]:
        assert len(task["problems"]) == 4 and task["beta"] > 0 and task["eta"] > 0
        for problem in task["problems"]:
            outcomes = [one["outcome"] for one in problem["rollouts"]]
            assert len(outcomes) == 8 and max(outcomes) - min(outcomes) >= 0.5
            assert len({one["messages"][0][1] for one in problem["rollouts"]}) == 1, "one user asks them all"
            for one in problem["rollouts"]:
                said = sum(role == "assistant" for role, _ in one["messages"])
                assert said == len(one["log_ratios"]) == len(one["judge"]) == len(one["kinds"])
                assert all(one["log_ratios"]) and 0 <= one["outcome"] <= 1


def test_data_that_would_end_the_script_do_not() -> None:
    said = "</script><script>alert(1)</script> \\1 \\g<0>"
    page = fill_page(TEXT, {"tasks": [said]})
    assert page.count("<script") == TEXT.count("<script") + 1  # as text within the data
    assert page.count("</script>") == TEXT.count("</script>") and read_page(page) == {"tasks": [said]}


# The page in a browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FRAME = """<!doctype html><body><iframe src="credit.html" width="WIDTH" height="9000" style="border:0"></iframe><script>
const answer = {};
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), view = frame.contentWindow, page = frame.contentDocument;
  view.addEventListener("error", event => (answer.error = event.message));
  try {
    answer.asked = (() => { SCRIPT })();
  } catch (error) {
    answer.error = String(error);
  }
  document.body.textContent = "RESULT" + JSON.stringify(answer) + "END";
});
</script></body>"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a script beside the page, in a frame of this width, and gives what it returns."""
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert browser, f"no browser here: install one of {', '.join(NAMES)}"
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(PAGE, folder / "credit.html")

    def run(script: str, width: int = 1280) -> Any:
        page = folder / "frame.html"
        page.write_text(FRAME.replace("SCRIPT", script).replace("WIDTH", str(width)), encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--allow-file-access-from-files",
        ]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=20000", "--dump-dom"]
        command = [browser, *options, page.as_uri()]
        dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout
        found = re.search("RESULT({.*})END", dumped, re.DOTALL)
        assert found, dumped[-2000:]
        result = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
        assert "error" not in result, result["error"]
        return result["asked"]

    return run


MOVE = """
const tell = (input, kind) => input.dispatchEvent(new view.Event(kind, { bubbles: true }));
const put = (id, value) => { const input = page.getElementById(id); input.value = value; tell(input, "input"); };
const pick = (name, value) => page.querySelector(`input[name=${name}][value=${value}]`).click();
const slide = (id, value) => {
  put(id, view.eval(`LADDERS.${id}.indexOf(${value})`));
  if (parseFloat(page.getElementById(id + "-value").textContent) !== value) throw new Error(`${id} is not ${value}`);
};
const read = cell => JSON.parse(cell.dataset.value);
const shown = () => ({
  turns: [...page.querySelectorAll("#dialogue .measures")].map(list => Object.fromEntries(
    [...list.querySelectorAll("[data-measure]")].map(cell => [cell.dataset.measure, read(cell)]))),
  group: [...page.querySelectorAll("#group tbody tr")].map(row => [...row.querySelectorAll("[data-value]")].map(read)),
});
"""


@pytest.mark.browser
def test_what_a_browser_shows_is_what_the_library_computes(browse: Any) -> None:
    """Over a grid of choices, made with the page's own controls."""
    grid = list(choices(etas=(0.05, 0.4, 10.0), betas=(0.02, 1.0)))
    script = f"""{MOVE}
      return [...Array({len(DATA["tasks"])}).keys()].map(task => {{
        put("task", task); put("problem", 2);
        return {json.dumps(grid)}.map((choice, i) => {{
          put("rollout", i % 8);
          pick("method", choice.method);
          if (choice.method !== "signed_norm_itpo") pick("baseline", choice.baseline);
          for (const id of ["eta", "beta"]) if (!page.getElementById(id).disabled) slide(id, choice[id]);
          const beside = page.getElementById("beside");
          if (!beside.disabled && beside.checked !== choice.beside) beside.click();
          return shown();
        }});
      }});"""
    for task, results in zip(DATA["tasks"], browse(script), strict=True):
        for number, (choice, found) in enumerate(zip(grid, results, strict=True)):
            wanted = expected(batch_of(task), choice)[16:24]
            assert len(found["group"]) == 8
            for row, one in zip(found["group"], wanted, strict=True):
                assert all(abs(a - b) < EXACT for a, b in zip(row, one["advantages"], strict=True)), choice
            columns = {name: [turn[name] for turn in found["turns"]] for name in MEASURES}
            columns["shares"] = columns["shares"] if columns["shares"][0] is not None else None
            assert_equal(columns, wanted[number % 8], choice)


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_is_read_at_every_width(browse: Any, width: int) -> None:
    script = """
      const said = part => part.getAttribute("aria-label") || part.textContent.trim();
      const outside = part => part.getBoundingClientRect().right > WIDTH + 1 && !part.closest(".scroll");
      return {
        width: page.documentElement.scrollWidth,
        outside: [...page.body.querySelectorAll("*")].filter(outside).map(part => part.outerHTML.slice(0, 80)),
        table: page.querySelector(".scroll").scrollWidth - page.querySelector(".scroll").clientWidth,
        clipped: [...page.querySelectorAll("dt, .value, button, .choices label, .said")]
          .filter(part => part.scrollWidth > part.clientWidth + 1 && part.clientWidth).map(said),
        silent: [...page.querySelectorAll("[role=img], button")].filter(part => !said(part)).map(part => part.outerHTML),
        unnamed: [...page.querySelectorAll("input, select")].filter(part => !part.labels.length).map(part => part.outerHTML),
        letters: parseFloat(view.getComputedStyle(page.querySelector(".said")).fontSize),
        bars: page.querySelectorAll("[role=img]").length,
      };"""
    found = browse(script, width)
    assert found["width"] <= width and not found["outside"] and not found["clipped"], found
    assert found["table"] <= 0, "the table of the group fits too"
    assert not found["silent"] and not found["unnamed"], found
    assert found["letters"] >= 18 and found["bars"] > 40


@pytest.mark.browser
def test_buttons_addresses_and_nonsense(browse: Any) -> None:
    """A try shows what it says, a row of the table opens its dialogue, an address brings its state back, nonsense is left."""
    script = f"""{MOVE}
      const states = [...page.querySelectorAll("#tries button")].map(button => {{
        button.click();
        return {{ ...view.eval("state") }};
      }});
      page.querySelectorAll("#group button")[5].click();
      const opened = page.getElementById("heading").textContent;
      view.eval("set({{ task: 99, problem: -1, rollout: 1.5, method: 'toString', baseline: '', eta: NaN, beta: 7 }})");
      const kept = {{ ...view.eval("state") }};
      const address = view.location.hash;
      view.eval("set({{ method: 'itpo', rollout: 0 }})");
      view.history.replaceState(null, "", address);
      view.eval("set(fromAddress())");
      return {{ states, opened, kept, back: {{ ...view.eval("state") }} }};"""
    found = browse(script)
    methods = [state["method"] for state in found["states"]]
    assert methods == ["norm_itpo", "signed_norm_itpo", "norm_itpo", "norm_itpo", "equal_share", "itpo"]
    outcomes = [one["outcome"] for one in DATA["tasks"][0]["problems"][0]["rollouts"]]
    assert [outcomes[state["rollout"]] for state in found["states"][:4]] == [min(outcomes)] * 2 + [
        max(outcomes)
    ] * 2
    assert found["opened"] == "Problem 1, dialogue 6"
    assert found["kept"] == found["back"] == {**found["states"][-1], "rollout": 5}
