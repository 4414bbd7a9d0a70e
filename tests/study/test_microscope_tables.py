"""Statistics of gradients against explicit gradients: by brute force, and in simulations whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from itpo.study import microscope_tables as tables
from itpo.study.microscope_tables import Products
from itpo.study.tables import DASH, as_text

NAMES = ("reference", "trajectory_share", "other")


def products(gradients: np.ndarray, names: tuple[str, ...] = NAMES) -> Products:
    """Of gradients of M methods, N batches and D parameters."""
    own = np.einsum("mad,mbd->mab", gradients, gradients)
    return Products(names, own, np.einsum("mad,bd->mab", gradients, gradients[0]))


def drawn(rng: np.random.Generator, batches: int, size: int, noise: float = 1.0) -> np.ndarray:
    """Trajectory-share equals the reference; the other has half of its noise, and a mean of its own."""
    true = rng.normal(size=size) / np.sqrt(size)
    reference = true + noise * rng.normal(size=(batches, size)) / np.sqrt(size)
    turned = true + 0.5 * rng.normal(size=size) / np.sqrt(size)
    other = 7.0 * (turned + 0.5 * noise * rng.normal(size=(batches, size)) / np.sqrt(size))
    return np.stack([reference, 3.0 * reference, other])


def brute(gradients: np.ndarray, left_out: int | None = None) -> dict[str, np.ndarray]:
    """The statistics by loops over explicit vectors, without one of the batches."""
    batches = [b for b in range(gradients.shape[1]) if b != left_out]
    reference = gradients[0]
    pairs = [(a, b) for a in batches for b in batches if a != b]

    def over(value):
        return np.mean([value(a, b) for a, b in pairs])

    length = np.sqrt(over(lambda a, b: reference[a] @ reference[b]))
    found: dict[str, list[float]] = {"cosine": [], "bias": [], "snr": []}
    for own in gradients:
        found["cosine"].append(over(lambda a, b: own[a] @ reference[b] / np.linalg.norm(own[a])) / length)  # noqa: B023
        signal = over(lambda a, b: own[a] @ own[b])  # noqa: B023
        found["bias"].append(over(lambda a, b: own[a] @ reference[b]) / (np.sqrt(signal) * length))  # noqa: B023
        noise = np.mean([own[a] @ own[a] for a in batches]) - signal
        found["snr"].append(signal / noise)
    return {name: np.array(values) for name, values in found.items()}


def test_statistics_are_those_of_the_explicit_gradients_with_and_without_each_batch() -> None:
    gradients = drawn(np.random.default_rng(0), batches=6, size=40)
    made = products(gradients)
    found = {
        "cosine": tables.cosines(made),
        "bias": tables.biases(made),
        "snr": tables.signal_to_noise(made),
    }
    for column, left_out in enumerate([None, *range(6)]):
        for name, values in brute(gradients, left_out).items():
            np.testing.assert_allclose(found[name][:, column], values, rtol=1e-10)
    # The trace of the covariance by its definition.
    for own, ratio in zip(gradients, found["snr"][:, 0], strict=True):
        spread = own.var(axis=0, ddof=1).sum()
        signal = (own.mean(0) ** 2).sum() - spread / 6
        assert ratio == pytest.approx(signal / spread)


def test_a_scale_changes_nothing() -> None:
    gradients = drawn(np.random.default_rng(1), batches=5, size=30)
    usual, scaled = (
        products(gradients),
        products(gradients * np.array([2.0, 0.1, 30.0])[:, None, None]),
    )
    for statistic in (tables.cosines, tables.biases, tables.signal_to_noise, tables.worths):
        np.testing.assert_allclose(statistic(usual), statistic(scaled), rtol=1e-10)


def test_cosines_and_biases_are_right_on_average_and_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    size, batches, noise, trials = 60, 12, 2.0, 300
    true = rng.normal(size=size) / np.sqrt(size)
    turned = true + 0.5 * rng.normal(size=size) / np.sqrt(size)
    unit = true / np.linalg.norm(true)

    def sample(mean, scale, count):
        return mean + scale * rng.normal(size=(count, size)) / np.sqrt(size)

    def mean_cosine(mean, scale):
        many = sample(mean, scale, 20_000)
        return (many @ unit / np.linalg.norm(many, axis=1)).mean()

    truth = {
        "cosine": np.array([mean_cosine(true, noise), mean_cosine(turned, 0.5 * noise)]),
        "bias": np.array([1.0, turned @ unit / np.linalg.norm(turned)]),
    }
    truth["difference"] = truth["cosine"][1:] - truth["cosine"][:1]
    estimates: dict[str, list[np.ndarray]] = {name: [] for name in truth}
    covered: dict[str, list[np.ndarray]] = {name: [] for name in truth}
    for _ in range(trials):
        reference = sample(true, noise, batches)
        made = products(np.stack([reference, reference, sample(turned, 0.5 * noise, batches)]))
        every = {"cosine": tables.cosines(made)[1:], "bias": tables.biases(made)[1:]}
        every["difference"] = every["cosine"][1:] - every["cosine"][:1]
        for name, lines in every.items():
            intervals = [tables.interval(line) for line in lines]
            estimates[name].append(np.array([i.mean for i in intervals]))
            inside = [i.low <= t <= i.high for i, t in zip(intervals, truth[name], strict=True)]
            covered[name].append(np.array(inside))
    for name, values in truth.items():
        error = np.std(estimates[name], axis=0) / np.sqrt(trials)
        # A ratio of U-statistics is biased in the order of 1 / N: a tenth of what one measurement may be off.
        slack = 3 * error + 0.1 * np.std(estimates[name], axis=0)
        assert (np.abs(np.mean(estimates[name], axis=0) - values) < slack + 1e-12).all(), name
        share = np.mean(covered[name], axis=0)[values < 1]  # without bias the interval of the bias is cut off
        assert (share > 0.89).all() and (share < 0.995).all(), (name, share)


def test_the_worth_of_a_larger_batch_is_its_size() -> None:
    rng = np.random.default_rng(3)
    size, batches, times = 2000, 40, 4
    true = rng.normal(size=size) / np.sqrt(size)

    def mean_of(count):
        return true + 3.0 * rng.normal(size=(batches, count, size)).mean(1) / np.sqrt(size)

    reference = mean_of(1)
    made = products(np.stack([reference, mean_of(1), mean_of(times)]))
    worth = tables.ratio_interval(tables.worths(made)[2])
    assert worth.low < times < worth.high and worth.high / worth.low < 1.6
    against_truth = np.stack([reference, reference, np.tile(-true, (batches, 1))])
    assert tables.worths(products(against_truth))[2, 0] == 0.0


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(4).normal(size=9)
    assert tables.jackknife(tables.batch_means(values)) == pytest.approx((values.mean(), stats.sem(values)))
    pairs = values[:, None] + values[None, :]  # whose mean over pairs is twice the mean
    assert tables.jackknife(tables.pair_means(pairs)) == pytest.approx(
        (2 * values.mean(), 2 * stats.sem(values))
    )


def test_holm_is_over_all_methods_but_the_reference_and_trajectory_share() -> None:
    rng = np.random.default_rng(5)
    names = ("reference", "trajectory_share", "same", "far", "none")
    gradients = drawn(rng, batches=12, size=200, noise=3.0)
    true = gradients[0].mean(0)
    far = true + 0.05 * rng.normal(size=(12, 200))
    every = np.stack([gradients[0], gradients[1], gradients[1], far, np.zeros((12, 200))])
    table = tables.microscope_table(products(every, names))
    assert table["name"].tolist() == list(names[1:])
    lines = table.set_index("name")
    assert (
        np.isnan(lines.loc["trajectory_share", "difference"]) and not lines.loc["trajectory_share", "counts"]
    )
    assert lines.loc["far", "counts"] and lines.loc["far", "p_adjusted"] == pytest.approx(
        3 * lines.loc["far", "p"]
    )
    assert not lines.loc[["same", "none"], "counts"].any()
    assert lines.loc[["same", "none"], ["p", "p_adjusted"]].isna().all(axis=None)  # no spread, and no cosine
    assert np.isnan(lines.loc["none", "cosine"]) and not lines.loc["none", "counts"]
    assert lines.loc["trajectory_share", "worth"] == 1.0
    assert (lines["cosine_high"].dropna() <= 1).all()
    assert lines["cosine_n"].tolist() == [12, 12, 12, 0]


def test_a_reference_that_is_only_noise_gives_no_number() -> None:
    gradients = np.eye(8)[:, :].reshape(1, 8, 8).repeat(3, 0) * [[[1.0]], [[1.0]], [[2.0]]]
    gradients[:, 1] = -gradients[:, 0]
    table = tables.microscope_table(products(gradients))
    assert table[["cosine", "bias", "worth"]].isna().all(axis=None) and not table["counts"].any()
    text = as_text(table.assign(label=table["name"]), tables.COLUMNS)
    assert (text[["worth (times the batch)", "cosine with the true gradient"]] == DASH).all(axis=None)


def test_layers_without_a_name_or_too_few_batches_are_refused() -> None:
    few = np.ones((3, 3, 3))
    with pytest.raises(ValueError, match="3 layers of products of 3 batches, and the names reference, traj"):
        Products(NAMES, few, few)
    with pytest.raises(ValueError, match="pass one name for each layer"):
        Products(NAMES[:2], np.ones((3, 5, 5)), np.ones((3, 5, 5)))
