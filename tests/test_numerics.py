"""Equal configs give equal numbers: the committed fingerprints of two-step runs hold until ``itpo.NUMERICS`` is raised."""

import json
import warnings

import golden_runs
import pytest

from itpo import NUMERICS
from itpo.runs.store import Run, fingerprint

RECORD = json.loads(golden_runs.RECORD.read_text(encoding="utf-8"))
RECORDED = RECORD["fingerprints"].get(golden_runs.platform_name())
TOLERANCE = {"rel": 1e-3, "abs": 1e-4}  # of metrics where another processor rounds otherwise
AGAIN = "if that is meant, raise itpo.NUMERICS and run `python tests/golden_runs.py`"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    if RECORDED is None:
        warnings.warn(
            f"no fingerprints are recorded for {golden_runs.platform_name()}: metrics are compared within {TOLERANCE}",
            stacklevel=1,
        )
    return golden_runs.train_all(tmp_path_factory.mktemp("golden"))


def test_the_record_is_of_this_version_of_the_numerics_and_of_all_runs():
    assert RECORD["numerics"] == NUMERICS, "run `python tests/golden_runs.py` after raising itpo.NUMERICS"
    assert all(set(names) == set(golden_runs.configs()) for names in RECORD["fingerprints"].values())
    assert set(RECORD["metrics"]) == set(golden_runs.configs())


@pytest.mark.parametrize("name", golden_runs.configs())
def test_a_run_has_the_recorded_numbers(runs: dict[str, Run], name: str):
    if RECORDED is not None:
        assert fingerprint(runs[name])[:16] == RECORDED[name], f"the numbers of {name} changed: {AGAIN}"
    for measured, recorded in zip(golden_runs.metrics(runs[name]), RECORD["metrics"][name], strict=True):
        assert steady(measured) == pytest.approx(steady(recorded), **TOLERANCE), (
            f"a metric of {name} changed: {AGAIN}"
        )


def steady(metrics: dict[str, float]) -> dict[str, float]:
    """Without what no processor shares: an explained variance of targets that hardly vary is a quotient of rounding errors."""
    return {key: max(value, -1e6) if key == "explained_variance" else value for key, value in metrics.items()}


def test_losses_have_the_recorded_values_also_far_from_where_training_goes():
    for name, values in golden_runs.loss_values().items():
        assert values == pytest.approx(RECORD["losses"][name], rel=1e-6), f"{name} changed: {AGAIN}"


def test_the_prompts_of_users_and_judges_are_those_of_their_version():
    assert golden_runs.prompts() == RECORD["prompts"], (
        f"their texts changed: raise PROMPTS_VERSION of itpo.specs; {AGAIN}"
    )


def test_what_several_processors_computed_agrees_but_for_rounding():
    several = list(RECORD["fingerprints"].values())
    assert (
        len(several) > 1
    )  # of one processor with other instructions: other last bits, hence other fingerprints
    assert len({tuple(names.values()) for names in several}) == len(several)
