"""Commands that are suggested train just what was asked for."""

import shlex
from typing import Any

import pytest

from itpo.apps.configs import parse_changes
from itpo.apps.finding import Facts, train_command
from itpo.apps.training import chosen_config
from itpo.fields import Options

SETTINGS: dict[str, Any] = {
    "checkpointing": True,
    "thought_credit": False,
    "policy_lr": 0.00123456789,
    "kl_coef": 1e-300,
    "steps": 12345678,
    "engine": "own",
}


def pasted(command: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The named options and the settings that a shell and ``itpo train`` read."""
    itpo, train, *words = shlex.split(command)
    assert (itpo, train) == ("itpo", "train")
    options = list(zip(words[::2], words[1::2], strict=True))
    changes = parse_changes(value for name, value in options if name == "--set")
    return {name: value for name, value in options if name != "--set"}, changes


def test_a_suggested_command_is_read_back_as_it_was_meant() -> None:
    facts = Facts("math", "norm_itpo", seed=3, status="finished", settings=Options(SETTINGS))
    named, changes = pasted(train_command(facts))
    assert named == {"--task": "math", "--method": "norm_itpo", "--seed": "3"}
    assert changes == SETTINGS and all(type(changes[name]) is type(SETTINGS[name]) for name in SETTINGS)
    chosen_config("laptop", "math", "norm_itpo", "rloo", 3, changes)  # which refuses what it cannot take


@pytest.mark.parametrize(
    "value", [None, [1, "two words"], {"<a>": "it's </a>"}, "null", "4", "two words", "é", ""]
)
def test_so_is_any_value(value: Any) -> None:
    assert pasted(train_command(Facts(settings=Options(mine=value))))[1] == {"mine": value}
