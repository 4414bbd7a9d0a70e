"""What the tests of integrations share."""

import pytest


@pytest.fixture
def say(capsys):
    """Prints what was compared, past pytest's capturing."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"  {text}", flush=True)

    return say
