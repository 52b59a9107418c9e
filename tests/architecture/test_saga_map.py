"""The checks of the saga's map have teeth: each way the map could be wrong is planted, and is a finding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest

from quadrille.handlers import HandlerRegistry
from quadrille.intents import Gateway, IntentPolicy
from quadrille.messages import Event, Message
from quadrille_cli.saga import checks
from quadrille_cli.saga.checks import Declared, Saga
from quadrille_cli.saga.saga_map import whole_saga

Plant: TypeAlias = Callable[[Saga], Saga]


@dataclass(frozen=True, slots=True)
class RumourHeard(Event, source="payment"):
    """An event that payment never says."""

    order_id: str


@dataclass(frozen=True, slots=True)
class StockMoved(Event):
    """An event that nobody hears."""

    order_id: str


@pytest.fixture(scope="module")
def saga() -> Saga:
    """The saga as it is."""
    return whole_saga()


def test_the_saga_is_whole(saga: Saga) -> None:
    """No orphan event, no dead end, every step undone or irreversible, every abort and acknowledgement arrives."""
    assert list(checks.findings(saga)) == []
    assert {service.service for service in saga.participants} == {"inventory", "payment"}
    assert saga.decider is not None
    assert saga.decider.service == "order"


@pytest.mark.parametrize("watched", [True, False])
def test_every_heartbeat_has_a_hearer(saga: Saga, watched: bool) -> None:  # noqa: FBT001 - a case of the table
    """Whoever falls silent is missed by some other service: of notification, whom nobody consumes, order hears that."""
    registries = copy.deepcopy(saga.services)
    for on in registries:
        on.watches = on.watches if watched else ()
    heard = {topic for on in registries for topic in on.subscribed() if topic != f"{on.service}.events"}

    unheard = {on.service for on in registries if f"{on.service}.events" not in heard}

    assert unheard == (set() if watched else {"notification"})


def handler(service: str, name: str, **other: Any) -> Plant:  # noqa: ANN401 - fields of a reaction
    """A handler that hears, says or undoes something else."""
    return within(service, lambda on: _changed(on, name, **other))


def deaf(service: str, name: str) -> Plant:
    """A service without one of its handlers."""

    def without(on: HandlerRegistry[Any]) -> None:
        del on.specs[_reaction(on, name)]

    return within(service, without)


def within(service: str, change: Callable[[HandlerRegistry[Any]], None]) -> Plant:
    """A saga in which one service is changed."""

    def planted(saga: Saga) -> Saga:
        services = [copy.copy(on) for on in saga.services]
        for on in services:
            on.specs = dict(on.specs)
            if on.service == service:
                change(on)
        return replace(saga, services=services)

    return planted


def outside(service: str, change: Callable[[dict[Any, IntentPolicy]], None]) -> Plant:
    """A saga in which a service's gateway is changed."""

    def planted(saga: Saga) -> Saga:
        changed = Gateway(service)
        changed.policies = dict(saga.outsides[service].policies)
        change(changed.policies)
        return replace(saga, outsides={**saga.outsides, service: changed})

    return planted


def declared(name: str, change: Callable[[dict[str, str]], object]) -> Plant:
    """A saga of which something else is declared."""

    def planted(saga: Saga) -> Saga:
        table: dict[str, str] = dict(getattr(saga.declared, name))
        change(table)
        tables: Mapping[str, Any] = {name: table}
        return replace(saga, declared=replace(saga.declared, **tables))

    return planted


def _reaction(on: HandlerRegistry[Any], name: str) -> type[Message]:
    return next(cls for cls, reaction in on.specs.items() if reaction.name == name)


def _changed(on: HandlerRegistry[Any], name: str, **other: Any) -> None:  # noqa: ANN401 - as above
    heard = _reaction(on, name)
    reaction = replace(on.specs.pop(heard), **other)
    on.specs[reaction.consumes] = reaction


def _forget(type_: str) -> Callable[[dict[Any, IntentPolicy]], None]:
    def forget(policies: dict[Any, IntentPolicy]) -> None:
        for cls in [cls for cls in policies if cls.type == type_]:
            del policies[cls]

    return forget


def _obey_nobody(on: HandlerRegistry[Any]) -> None:
    for name in ("cancel_order", "give_up_waiting"):
        _changed(on, name, emits=())


def _say_nothing(on: HandlerRegistry[Any]) -> None:
    for reaction in [*on.specs.values()]:
        _changed(on, reaction.name, emits=())


FAULTS: dict[str, tuple[Plant, str]] = {
    "an event nobody emits": (
        handler("order", "note_skipped", consumes=RumourHeard),
        "order consumes rumour.heard, which payment never emits",
    ),
    "an event nobody consumes": (
        handler("inventory", "commit_stock", emits=(StockMoved,)),
        "inventory emits stock.moved, which nobody consumes and which is declared for nobody",
    ),
    "a fact no longer declared": (
        declared("readers", lambda table: table.pop("notification.failed")),
        "notification emits notification.failed, which nobody consumes",
    ),
    "an event for people that a service consumes": (
        declared("readers", lambda table: table.update({"payment.declined": "?"})),
        "payment.declined is declared for people, and",
    ),
    "a declaration of nothing": (
        declared("operators", lambda table: table.update({"order.lost": "?"})),
        "order.lost is declared, and nobody emits it",
    ),
    "an intent nobody carries out": (
        outside("payment", _forget("refund_card")),
        "payment emits refund_card, which nobody carries out",
    ),
    "an answer nobody consumes": (
        deaf("payment", "not_found"),
        "payment does not consume charge_not_found, an answer to inquire_charge",
    ),
    "an answer to nothing": (
        outside("notification", _forget("send_mail")),
        "notification consumes mail_sent, which answers no intent",
    ),
    "a timer nobody consumes": (deaf("order", "expire"), "order: the timer order_deadline is never consumed"),
    "a dead end": (
        handler("order", "give_up_unfilled", emits=()),
        "inventory emits stock.rejected, which leads to no end",
    ),
    "an end no longer declared": (
        declared("rests", lambda table: table.pop("stock.committed")),
        "inventory emits stock.committed, which leads to no end",
    ),
    "a step that nothing undoes": (
        handler("payment", "undo_payment", role="learns", compensates=None),
        "payment: take_permission is a step with no compensation",
    ),
    "a late step without an undo": (
        declared("undone_by", lambda table: table.pop("inventory.commit_stock")),
        "inventory.commit_stock has no undo and is not declared irreversible",
    ),
    "a step no longer irreversible": (
        declared("irreversible", lambda table: table.pop("notification.tell_of_confirmation")),
        "notification.tell_of_confirmation has no undo and is not declared irreversible",
    ),
    "an undo that is gone": (
        declared("undone_by", lambda table: table.update({"order.confirm": "regret"})),
        "order.confirm is declared undone by regret, and one of them is not there",
    ),
    "irreversible and gone": (
        declared("irreversible", lambda table: table.update({"order.shrug": "?"})),
        "order.shrug is declared irreversible, and is not there",
    ),
    "an effect begun by who only learns": (
        handler("payment", "take_permission", emits=()),
        "payment.learn_amount begins charge_card outside and is no step",
    ),
    "a deadline that undoes nothing": (
        handler("order", "expire", emits=()),
        "order: no deadline leads to order.cancellation_requested",
    ),
    "a command that undoes nothing": (
        within("order", _obey_nobody),
        "order: no command leads to order.cancellation_requested",
    ),
    "nobody decides": (
        within("order", _say_nothing),
        "nobody emits order.cancellation_requested: no order can be undone",
    ),
    "an abort that does not arrive": (
        deaf("inventory", "release_stock"),
        "order.cancellation_requested does not reach the undo of inventory.reserve_stock",
    ),
    "a step that cannot fail": (
        handler("inventory", "reserve_stock", emits=()),
        "inventory.reserve_stock cannot fail: none of its facts leads to order.cancellation_requested",
    ),
    "an undo that acknowledges nothing": (
        handler("inventory", "release_stock", emits=()),
        "inventory.release_stock acknowledges nothing (L3)",
    ),
    "an acknowledgement that ends nothing": (
        handler("order", "note_skipped", emits=()),
        "payment.undo_payment emits payment.skipped, which acknowledges nothing (L3)",
    ),
    "an acknowledgement that is not heard": (
        deaf("order", "note_released"),
        "inventory.release_stock leads to stock.released, which the decider does not consume",
    ),
    "a failed undo without a way out": (
        deaf("inventory", "retry_release"),
        "",  # resolving alone is a way out
    ),
    "a failed undo without any way out": (
        lambda saga: deaf("inventory", "retry_release")(deaf("inventory", "resolve_stock")(saga)),
        "stock.release_failed has no way out: no command of inventory leads to what resolves it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_a_finding(saga: Saga, fault: str) -> None:
    """One handler, policy or declaration changed: the map says what is wrong with it."""
    plant, told = FAULTS[fault]

    found = list(checks.findings(plant(saga)))

    assert told in "\n".join(found)
    assert bool(found) is bool(told)


def test_a_second_abort_fact_is_a_finding(saga: Saga) -> None:
    """An undo on another event of the decider would be a second way to abort (law L2)."""
    confirmed = next(r.consumes for s in saga.services for r in s.specs.values() if r.name == "commit_stock")
    plant = within("inventory", lambda on: _changed(on, "release_early", consumes=confirmed))

    found = list(checks.aborts(plant(saga)))

    assert "inventory undoes on order.confirmed too: every abort is order.cancellation_requested (L2)" in found


def test_nothing_declared_is_without_a_reason() -> None:
    """Every declaration that allows something says why."""
    tables = Declared().operators, Declared().readers, Declared().rests, Declared().irreversible
    assert all(why for table in tables for why in table.values())
