"""The base models that ship: all of both profiles, the bytes that their records name, and what this code makes."""

from __future__ import annotations

from pathlib import Path

import make_bases
import pytest

from itpo.runs.artifacts import SHIPPED, read_artifact
from itpo.runs.platform import making_platform
from itpo.runs.store import Store
from itpo.study import ablations
from itpo.study.profiles import get_profile
from itpo.training.build import base_model

BASES = make_bases.bases()


def test_every_listed_one_ships_and_no_other() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {*BASES}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 4e6


@pytest.mark.parametrize("name", BASES)
def test_one_is_as_its_record_says_and_was_made_of_what_is_listed(name: str) -> None:
    assert read_artifact(SHIPPED / name)["content"] == BASES[name].content()


@pytest.mark.parametrize("name", BASES)
def test_a_fresh_one_has_the_same_first_steps(name: str, unchecked: None) -> None:
    """On the platform that it was made on; all steps are for `python tools/make_bases.py --check`."""
    document = read_artifact(SHIPPED / name)
    if document["platform"] != making_platform():
        pytest.skip("was made on another platform")
    assert BASES[name].early_hash() == document["early"]


def test_the_runs_of_both_profiles_begin_with_them(tmp_path: Path) -> None:
    store, smoke = Store(tmp_path / "runs"), get_profile("smoke")
    configs = [get_profile(name).on(task).run for name in ("smoke", "laptop") for task in smoke.settings]
    configs += [cell.run for cell in ablations.ablations(smoke, 1, 4, slice(2)).values()]
    assert {Path(base_model(config, store)).parent for config in configs} == {SHIPPED}
    assert not store.root.exists()
