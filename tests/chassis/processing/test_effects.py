"""Effects: what a saying leads to outside, and that what nobody knows to be harmless counts as one."""

from __future__ import annotations

from quadrille.replay.fence import UNKNOWN, Effects, effects_of
from quadrille.system_messages import IntakePaused
from tests.chassis.support.sample_messages import BakeCake, CakeReady, LoavesHeld, ShelfFilled


def test_an_intent_leads_to_its_own_effect_and_a_fact_to_its_answers() -> None:
    """What is said counts with what it does outside and with what it makes others do; a reply does nothing."""
    effects = Effects({"loaves.held": frozenset({"charge", "mail"}), "cake.ready": frozenset()})

    assert effects.of([BakeCake("o-1")]) == {"bake_cake"}
    assert effects.of([LoavesHeld("o-1", 1), CakeReady("o-1", 1), ShelfFilled("rye", 1)]) == {"charge", "mail"}


def test_a_fact_nobody_has_mapped_counts_as_an_effect() -> None:
    """What the map does not have, or no map at all, is unknown; the chassis' own events lead to nothing."""
    assert effects_of("pantry-that-is-no-package").of([CakeReady("o-1", 1)]) == {UNKNOWN}
    assert Effects({"loaves.held": frozenset()}).of([CakeReady("o-1", 1)]) == {UNKNOWN}
    assert effects_of("payment").of([IntakePaused("payment", "x")]) == frozenset()
