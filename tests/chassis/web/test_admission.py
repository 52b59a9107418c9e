"""The states of admission control: when each turns into which."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quadrille.testing import START
from quadrille.web.admission import PROBES, AdmissionLimits, AdmissionMode, AdmissionState

LIMITS = AdmissionLimits()


@pytest.mark.parametrize(
    ("state", "seconds", "ended", "failed", "wanted"),
    [
        ("OPEN", 9, 20, 1, "OPEN"),  # 5 % is not above 5 %
        ("OPEN", 9, 20, 2, "SHUT"),
        ("OPEN", 9, 19, 19, "OPEN"),  # too few to judge by
        ("SHUT", 29, 0, 0, "SHUT"),
        ("SHUT", 30, 50, 50, "TRICKLE"),
        ("TRICKLE", 1, PROBES - 1, 0, "TRICKLE"),
        ("TRICKLE", 1, PROBES, 0, "OPEN"),
        ("TRICKLE", 1, 9, 1, "SHUT"),
        ("TRICKLE", 99, 0, 0, "TRICKLE"),
        ("PAUSED", 9999, 100, 0, "PAUSED"),
    ],
)
def test_when_the_state_turns(
    state: AdmissionMode, seconds: int, ended: int, failed: int, wanted: AdmissionMode
) -> None:
    """More than 5 % of at least 20; half a minute's rest; five good ones; never out of a person's pause."""
    assert AdmissionState(state, START, START + timedelta(seconds=seconds), ended, failed).next(LIMITS) == wanted
