"""Every order of events, by the services' own handlers: no law is broken in any state, and every run ends.

``QUADRILLE_MODEL`` is quick (over a million states, as in ``make test``), ci (over five million) or nightly.
"""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import pytest

from quadrille_cli.saga.saga_map import saga_of
from tests.model import laws
from tests.model.running import Task, run_all
from tests.model.scope import PROFILES

PROFILE = os.environ.get("QUADRILLE_MODEL", "quick")
LEAST = {"quick": 1_000_000, "ci": 5_000_000, "nightly": 6_000_000}
SECONDS = {"quick": 300, "ci": 900, "nightly": 7200}  # on a busy machine; alone it takes 20, 60 and 240
ELSEWHERE = {  # clocks of operators, stock keepers, the address book, clients: the services' own tests drive them
    "order.look_after",  # it decides nothing: tests of its own
    *("order.add_webhook", "order.rotate_webhook", "order.enable_webhook", "order.remove_webhook"),  # no order's
    "order.note_pushed",
    "inventory.set_stock",
    "notification.put_contact",
    "notification.delete_contact",
}
NEVER = {  # guards for what cannot come: who has settled was asked to before, and what is declined is not sold
    ("order.cancel_order", "order.cancelled"),
    ("order.expire", "order.cancelled"),
    ("order.give_up_waiting", "order.cancelled"),
    ("order.place_order", "order_check"),  # only for a deadline that is far off
    ("inventory.release_early", "stock.release_failed"),
    ("notification.dropped", "send_mail"),  # no address changes here
}
CONTRADICTED = ("order", "finding.raised")  # a contradiction cannot come
HANDLERS = saga_of()
pytestmark = pytest.mark.timeout(SECONDS[PROFILE])
Reports: TypeAlias = "dict[str, dict[str, Any]]"


@pytest.fixture(scope="module")
def reports() -> Reports:
    """What every search of the profile found, the longest ones begun first."""
    names = list(reversed(PROFILES[PROFILE]))
    return dict(zip(names, run_all(Task(name) for name in names), strict=True))


@pytest.mark.proves("L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "L11", "late.second-line")
@pytest.mark.parametrize("search", PROFILES[PROFILE])
def test_no_order_of_events_breaks_a_law(reports: Reports, search: str) -> None:
    """The search is complete: laws L1 to L11 and invariants 3 to 7 hold in every state, and every run ends."""
    report = reports[search]
    assert not report["broken"], f"{search}\n{report['broken']}"
    assert report["ends"] > 0


def test_the_searches_are_large(reports: Reports) -> None:
    """Together they see as many distinct states as the profile promises."""
    assert sum(report["states"] for report in reports.values()) >= LEAST[PROFILE]


def test_every_edge_of_the_saga_is_walked(reports: Reports) -> None:
    """What a handler may say by its signature, it says somewhere in these searches, but for a few guards."""
    walked = {tuple(edge) for report in reports.values() for edge in report["edges"]}
    declared = {
        (f"{on.service}.{reaction.name}", emitted.type)
        for on in HANDLERS
        for reaction in on.specs.values()
        for emitted in reaction.emits
        if f"{on.service}.{reaction.name}" not in ELSEWHERE and (on.service, emitted.type) != CONTRADICTED
    }
    assert declared - walked == NEVER


def test_the_laws_speak_of_real_words() -> None:
    """Every event and intent in the tables of laws is one that some handler says or hears: none is misspelt."""
    says = {emitted.type for on in HANDLERS for reaction in on.specs.values() for emitted in reaction.emits}
    real = says | {heard.type for on in HANDLERS for heard in on.specs}
    needed = {one for groups in laws.NEEDS.values() for group in groups for one in group}
    forbidden = {one for group in laws.FORBIDS.values() for one in group}
    named = needed | forbidden | set(laws.NEEDS) | set(laws.FORBIDS) | set(laws.FOLDS) | laws.AGAIN
    assert {one.partition(" of ")[0] for one in named} <= real
