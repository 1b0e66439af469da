"""No text of an option becomes a line of its own in a batch script."""

from __future__ import annotations

import pytest

from backbones.errors import UserError
from mae_bench.launchers.slurm import _parameters


@pytest.mark.parametrize(
    "given", [{"reservation": "x\ntouch y"}, {"a\ntouch y": "1"}, {"comment": "x\r"}, {"qos": "\x1b"}]
)
def test_control_characters_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must be one line") as caught:
        _parameters(given)
    assert str(caught.value).isprintable()


def test_text_that_a_shell_would_obey_stays_text() -> None:
    assert _parameters({"comment": "x; $(touch y)"})["comment"] == "x; $(touch y)"
