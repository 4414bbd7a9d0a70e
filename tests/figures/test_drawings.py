"""Every drawing: legible, the same bytes for the same data, shown once, and true to the frames that it is given."""

import functools
import inspect
from collections.abc import Callable

import figure_examples as examples
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from figure_examples import MAKERS, STRANGER, STRANGER_NAME, WITH_PRM, WITH_STRANGER, band, frame
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from itpo import turns
from itpo.attribution import METHODS, known_methods
from itpo.figures import (
    _parts,
    comparison,
    conversations,
    credit,
    estimators,
    framework,
    method,
    microscope,
    real,
    results,
)
from itpo.figures.style import COLUMN, PALE, SIGNED, SMALL, TEXT

pytestmark = pytest.mark.usefixtures("figure_style")
MODULES = (
    comparison,
    conversations,
    credit,
    estimators,
    framework,
    method,
    microscope,
    real,
    results,
)
Png = Callable[[Figure], bytes]


@functools.cache
def made(name: str) -> Figure:
    """A drawing that tests look at and do not change."""
    return MAKERS[name]()


def test_every_drawing_is_among_the_examples() -> None:
    drawings = {
        name
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and function.__annotations__.get("return") in ("Figure", Figure)
    }
    drawings -= {"kendall_over_training", "picture"}  # "kendall", "conversation" and "conversations"
    assert len(drawings) > 20 and drawings <= MAKERS.keys()


@pytest.mark.parametrize("name", MAKERS)
def test_text_is_legible_and_apart_and_a_notebook_shows_the_figure_once(
    name: str, text_boxes: Callable[[Figure], dict[Text, Bbox]], check_apart: Callable[[Figure], None]
) -> None:
    figure = made(name)
    assert not plt.get_fignums()
    assert figure.get_figwidth() in (COLUMN, TEXT, 0.62 * TEXT)
    least = 5.5 if name in ("kendall", "token_text_values", "explained_variance") else SMALL
    assert min(text.get_fontsize() for text in text_boxes(figure)) >= least
    check_apart(figure)
    for ax in figure.axes:
        ticks = (*ax.get_xticklabels(), *ax.get_yticklabels())
        assert all(text.get_fontsize() >= 5.5 for text in ticks if text.get_text())


@pytest.mark.parametrize("name", MAKERS)
def test_same_data_give_the_same_bytes(name: str, png: Png) -> None:
    assert png(MAKERS[name]()) == png(MAKERS[name]())


NO_AXES = (
    "framework",
    "token_text",
    "conversation",
    "conversations",
    "turn_advantages",
)  # their cells say what they are


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in NO_AXES])
def test_axes_are_labelled(name: str) -> None:
    figure = made(name)
    shared = {text.get_text() for text in (figure._supxlabel, figure._supylabel) if text}
    labels = shared.union(*({ax.get_xlabel(), ax.get_ylabel()} for ax in figure.axes)) - {""}
    named_by_ticks = (
        "forest",
        "story",
        "best_and_worst",
        "costs",
        "credit_by_kind",
        "token_text_values",
        "credit_fidelity",
    )
    assert len(labels) >= (1 if name in named_by_ticks else 2)


@pytest.mark.parametrize("name", ["stability", "kendall", "credit_by_kind", "forest", "slopes"])
def test_legends_stand_beside_the_axes(name: str) -> None:
    figure = made(name)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(ax.get_window_extent()) for ax in figure.axes)


# Methods


@pytest.mark.parametrize("name", WITH_STRANGER)
def test_a_method_from_outside_is_drawn_as_its_entry_says(name: str, png: Png) -> None:
    figure = WITH_STRANGER[name]()
    written = {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}
    assert any(STRANGER.label in text for text in written)
    if name not in ("story", "costs", "stability"):  # these have colours of their own
        colors = {
            to_hex(artist.get_color())
            for ax in figure.axes
            for artist in ax.lines
            if artist.get_color() != "none"
        }
        colors |= {to_hex(patch.get_facecolor()) for ax in figure.axes for patch in ax.patches}
        assert STRANGER.color in colors
    assert png(figure)


def test_methods_stand_in_the_order_of_the_registry_whatever_that_of_the_frame() -> None:
    rows = pd.DataFrame({"row": [STRANGER_NAME, *reversed(METHODS)]})
    assert list(_parts.methods_in(rows)) == [*METHODS, STRANGER_NAME]
    with pytest.raises(ValueError, match="unknown method 'nobody'"):
        _parts.methods_in(pd.DataFrame({"row": ["nobody"]}))


@pytest.mark.parametrize("make", [estimators.explained_variance, credit.slopes])
def test_curves_have_the_colour_of_the_entry(make: Callable[[pd.DataFrame], Figure]) -> None:
    (ax,) = make(band(WITH_PRM)).axes
    colors = [line.get_color() for line in ax.lines]
    assert [METHODS[row].color for row in WITH_PRM] == [
        c for c in colors if c in {METHODS[r].color for r in WITH_PRM}
    ]


# The main comparison


def words(figure: Figure) -> set[str]:
    return {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}


def segments(ax: Axes) -> list[list[list[float]]]:
    """The strokes of a panel: its intervals, without those that are not known."""
    strokes = [s.tolist() for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    return [stroke for stroke in strokes if stroke]


def test_the_forest_has_a_line_for_each_claim_in_points_with_its_ruling_by_marker_and_colour() -> None:
    more = examples.LEDGER.iloc[:1].assign(unit="turns", statement="of another unit")
    figure = comparison.forest(pd.concat([examples.LEDGER, more]))
    primary, beside, secondary, _ = figure.axes
    names = [label.get_text().replace("\n", " ") for label in primary.get_yticklabels()]
    assert names[0] == "C1, speed: Norm-ITPO above trajectory-share" and len(names) == 4
    assert "of another unit" not in " ".join(words(figure))
    assert [t.get_text() for t in beside.texts][:2] == ["-5.6 [-8.6, -2.6]", "reversed"]
    dots = [line for line in primary.lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in dots] == [-5.6, 7.2, 0.4, 2.6]
    assert len({line.get_marker() for line in dots}) == len({to_hex(line.get_color()) for line in dots}) == 4
    assert [[x for x, _ in s] for s in segments(primary)][:2] == [[-8.6, -2.6], [4.7, 9.6]]
    ends = [line.get_marker() for line in secondary.lines if line.get_marker() in "<>"]
    assert ends == ["<", ">"], "the first interval goes on beyond the axis; the impossible one is not drawn"
    assert [[x for x, _ in s] for s in segments(secondary)] == [[-40.0, 40.0]]
    with pytest.raises(ValueError, match="no line of the ledger is in points"):
        comparison.forest(more)


def test_arms_of_one_method_share_its_colour_and_differ_in_filling() -> None:
    figure = MAKERS["band"]()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    drawn = dict(zip(labels, handles, strict=True))
    first, second = (drawn[name].lines[0] for name in ("Norm-ITPO", "Norm-ITPO, to_go"))
    assert first.get_color() == second.get_color() == METHODS["norm_itpo"].color
    assert (first.get_markerfacecolor(), second.get_markerfacecolor()) == (first.get_color(), "white")
    assert (list(first.get_ydata()), list(second.get_ydata())) == ([-3.0] * 3, [3.0])
    assert [ax.get_title() for ax in figure.axes] == ["math", "documents", "all tasks"]


def test_a_dot_for_each_seed_and_no_interval_that_is_not_known() -> None:
    figure = MAKERS["table_dots"]()
    assert len(figure.axes) == 6
    ax = figure.axes[0]
    dots = [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 7]
    assert dots == [[-24.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0]] * 5  # no value model under RLOO
    assert [[x for x, _ in s] for s in segments(ax)] == [[-3.0, 1.0]] * 5
    lines = frame("task estimator row mean low high", ("A", "rloo", "itpo", 1.0, np.nan, np.nan))
    (ax,) = comparison.table_dots(lines, lines.assign(seed=0, gain=1.0)).axes
    assert not segments(ax)


def test_intervals_that_leave_the_range_of_an_outcome_are_not_drawn() -> None:
    inside, outside = (
        comparison.speed_curves(examples.speeds().assign(low=0.3, high=high)).axes[1] for high in (0.9, 1.1)
    )
    assert np.isfinite(inside.dataLim.get_points()).all() and inside.dataLim.y1 == 0.9
    assert outside.dataLim.y1 < 0.9


def test_the_chosen_rate_of_each_task_is_ringed() -> None:
    figure = MAKERS["rates"]()
    rings = [line for ax in figure.axes for line in ax.lines if line.get_label() == "chosen rate"]
    assert [ring.get_xdata().tolist() for ring in rings] == [[1e-3], [2e-3]]


OF_METHODS = {
    *("story", "credit_fidelity", "best_and_worst", "slopes", "explained_variance", "turns_over_training"),
    *("band", "table_dots", "rates", "speed_curves", "speed_curves_of_all", "kendall", "rewards", "success"),
    *("success_of_one_step", "worths"),
    *("framework", "conversation", "conversations", "turn_credit"),  # ITPO's and Norm-ITPO's own rewards
    "forest",  # its line at no gain is that of trajectory-share
}


@pytest.mark.parametrize("name", sorted({*MAKERS} - OF_METHODS))
def test_no_other_drawing_uses_the_colour_of_a_method(name: str) -> None:
    figure = made(name)
    lines = [line.get_color() for ax in figure.axes for line in ax.lines]
    patches = [p.get_facecolor() for ax in figure.axes for p in ax.patches if p.get_facecolor()[3]]
    used = {to_hex(color) for color in [*lines, *patches] if color != "none"}
    assert not used & {entry.color.lower() for entry in known_methods().values()}


def test_undefined_bands_are_drawn_as_lines_only(png: Png) -> None:
    figure = results.stability(examples.items(spread=np.nan))
    assert png(figure) and all(len(ax.lines) == 5 for ax in figure.axes)


def test_a_case_has_a_cell_for_each_token_and_step() -> None:
    by_turn, by_token = MAKERS["reward_dynamics"]().axes[:2]
    expected = examples.TURN_REWARDS[:, examples.TURN_OF], examples.TOKEN_REWARDS
    for ax, values in zip((by_turn, by_token), expected, strict=True):
        np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(3, 7), values)
    assert [label.get_text() for label in by_token.get_xticklabels()][:4] == ["how", "many", "?", "end"]
    assert any("a lot of pears" in text.get_text() for text in by_turn.texts)


# Credit against the oracle


def test_story_says_what_the_oracle_measured() -> None:
    left, right, _ = MAKERS["story"]().axes
    written = [text.get_text() for text in left.texts]
    assert written[3] == "user: a lot of boxes ." and written[4].startswith("2  ok . exactly")
    assert [text for text in written if "±" in text] == ["+0.00 ± 0.07", "+0.20 ± 0.14", "-0.25 ± 0.00"]
    assert [text.get_text() for text in right.texts[: len(METHODS)]] == ["0"] * len(METHODS)
    assert [text.get_text() for text in right.texts[:: len(METHODS)]] == ["0", "-1.25", "+0.50"]
    colors = np.asarray(right.collections[0].get_array()).reshape(3, len(METHODS))
    np.testing.assert_array_equal(colors, np.array([[0.0, -1.0, 1.0]] * len(METHODS)).T)


def test_a_panel_for_each_estimator_and_measure() -> None:
    figure = MAKERS["credit_fidelity"]()
    assert [ax.get_title() for ax in figure.axes] == ["RLOO", "GRPO", "PPO", "", "", ""]
    dots = [sum(line.get_marker() == "o" for line in ax.lines) for ax in figure.axes]
    without_critic, with_critic = 2 * (len(METHODS) - 1), 2 * len(METHODS)
    assert dots == [without_critic, without_critic, with_critic] * 2


def test_wide_or_missing_intervals_change_no_axis(png: Png) -> None:
    limits = examples.fidelity().axes[0].get_xlim()
    assert examples.fidelity(spread=50.0).axes[0].get_xlim() == limits
    assert examples.fidelity(spread=np.nan).axes[0].get_xlim() == limits
    nothing = examples.sides(mean=np.nan)
    assert png(credit.best_and_worst(nothing, examples.REPORTED))
    assert png(credit.order_agreement(examples.agreement("same seed").assign(mean=np.nan), 0.9))


# Estimators


def test_cells_hold_the_numbers_and_the_reward_has_no_colour() -> None:
    ax = MAKERS["turn_advantages"]().axes[0]
    assert [text.get_text() for text in ax.texts][:3] == ["9.00", "+1.00", "+0.50"]
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["reward", "RLOO\nreleased"]
    colors = ax.images[0].get_array()
    assert colors is not None and colors.mask[:, 0].all() and not colors.mask[:, 1:].any()
    assert ax.images[0].norm.vmax == 1.0
    assert len(ax.lines) == 1  # between the two dialogues


def test_a_critic_that_misleads_is_cut_off() -> None:
    low, high = estimators.explained_variance(band(tuple(METHODS), mean=-50.0)).axes[0].get_ylim()
    assert (low, high) == (estimators.WORST, 1.0)


# The method


def test_a_long_message_goes_on_in_the_next_line() -> None:
    tokens = pd.DataFrame({"token": ["word"] * 40, "turn": 1})
    short, long = (method.token_text(tokens[:n]).get_figheight() for n in (5, 40))
    assert long > short


def test_bars_are_the_rewards_of_the_frame() -> None:
    ax = MAKERS["rewards"]().axes[0]
    assert [bar.get_height() for bar in ax.containers[0]] == [0.5, -0.2, 0.3]


def test_the_pivotal_turn_is_marked() -> None:
    labels = MAKERS["turn_credit"]().axes[0].get_yticklabels()
    assert [label.get_fontweight() == "bold" for label in labels] == [True, False]


def test_framework_shows_the_numbers_that_the_equations_give() -> None:
    shown = {name: torch.tensor([framework.TURNS[name].tolist()]) for name in framework.TURNS.columns}
    by_turn = [group["token_reward"].tolist() for _, group in framework.TOKENS.groupby("turn")]
    tokens = torch.tensor([[r for rewards in by_turn for r in (0.0, *rewards)]])
    mask = torch.tensor([[m for rewards in by_turn for m in (False, *[True] * len(rewards))]])
    ids = turns.turn_ids(mask)
    scores = turns.aggregate(tokens, ids)
    weights = turns.normalize(scores, turns.turn_mask(ids), framework.TEMPERATURE)
    close = {"rtol": 0, "atol": 0.005, "check_dtype": False}
    torch.testing.assert_close(scores, shown["turn_reward"], **close)
    torch.testing.assert_close(weights, shown["weight"], **close)
    torch.testing.assert_close(weights * framework.OUTCOME, shown["reward"], **close)


# A real model


def test_bars_add_up_to_the_step_and_parts_have_one_entry_each() -> None:
    left, right = MAKERS["costs"]().axes
    ends: dict[float, float] = {}
    for bar in left.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0.0), bar.get_x() + bar.get_width())
    assert sorted(ends.values()) == [40.0, 60.0]
    labels = left.get_legend_handles_labels()[1]
    assert sorted(labels) == ["PRM", "generation", "policy update", "reference"]
    assert [bar.get_width() for bar in right.patches] == [500, 40, 300]


def test_the_curve_passes_through_its_means() -> None:
    (ax,) = MAKERS["success"]().axes
    drawn = [
        np.round(line.get_ydata().astype(float), 6).tolist()
        for line in ax.lines
        if len(line.get_xdata()) == 3
    ]
    assert [0.2, 0.28, 0.36] in drawn


# The microscope


def test_a_worth_stands_at_its_place_and_is_filled_where_it_counts() -> None:
    figure = MAKERS["worths"]()
    for ax in figure.axes:
        marks = {round(float(line.get_ydata()[0])): line for line in ax.lines[1:]}
        assert {place: line.get_xdata()[0] for place, line in marks.items()} == {0: 1.0, 1: 0.5, 2: 32.0}
        assert [line.get_markerfacecolor() for line in marks.values()][1] == "white"
        assert marks[2].get_marker() == ">" and marks[2].get_markerfacecolor() == METHODS["itpo"].color
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"method {place}" for place in range(4)]


def test_the_map_has_colour_only_where_differences_count() -> None:
    (ax,) = MAKERS["worth_map"]().axes
    cells = [(round(p.get_x() + 0.48), to_hex(p.get_facecolor())) for p in ax.patches]
    assert len(cells) == 9 * 3, "a cell without a number is empty"
    assert {column for column, color in cells if color == PALE} == {0, 1}
    assert {color for column, color in cells if column == 2} == {to_hex(SIGNED(1.0))}
    assert {text.get_text() for text in ax.texts} >= {"1.0", ".50", "40", "math tutoring"}
