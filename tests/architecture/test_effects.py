"""Planted faults for the map of effects: what a replay's fence reads must be what the handlers say."""

from __future__ import annotations

import json
from pathlib import Path

from quadrille.replay.fence import effects_of
from quadrille_cli.saga import effects as saga_effects
from quadrille_cli.saga import saga_map
from quadrille_cli.services import SERVICES


def test_the_fence_knows_what_each_fact_leads_to() -> None:
    """stock.reserved and order.placed are answered with a charge, a cancellation with a refund, the ends with mails."""
    leads = {kind: set(effects) for name in SERVICES for kind, effects in effects_of(name).answered.items()}

    assert {kind: effects for kind, effects in leads.items() if effects} == {
        "order.placed": {"charge"},
        "stock.reserved": {"charge"},
        "order.cancellation_requested": {"refund"},
        "order.confirmed": {"mail"},
        "order.cancelled": {"mail"},
    }


def test_a_stale_map_is_found(tmp_path: Path) -> None:
    """An event whose effect is struck from the file, as by a handler that says more, makes the check red."""
    made = saga_effects.files(tmp_path, saga_map.saga_of())
    for path, text in made.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
    spoilt = tmp_path / "schemas" / "inventory" / "effects.json"
    spoilt.write_text(json.dumps({**json.loads(spoilt.read_text()), "stock.reserved": []}, indent=2) + "\n")

    stale = [path for path, text in saga_map.files(tmp_path).items() if path in made and path.read_text() != text]

    assert stale == [spoilt]
