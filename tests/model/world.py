"""The world of one search: the services with their first states, the messages by number, and how events travel."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import inventory.handlers
import notification.handlers
import order.handlers
import payment.handlers
from inventory.domain import Level, Sku
from inventory.events import SetStock
from notification.domain import Contact, CustomerId
from order.domain import Order, Rules
from order.events import CancelOrder, GiveUpWaiting, Line, OrderDeadline, PlaceOrder
from quadrille.intents import Decision
from quadrille.messages import Command, Emitted, Event, Intent, Message, Timer, stamp, tell_waiting
from quadrille.system_messages import ResolveCompensation, RetryCompensation
from quadrille_cli.services import SERVICES
from tests.model import laws
from tests.model.actors import Actor, Kept, Names, is_outward, row, token
from tests.model.life import INVENTORY, NOTIFICATION, ORDER, Left, Life, Row, swapped
from tests.model.scope import Scope

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DEADLINE = START + timedelta(minutes=5)
PRICE = 2500
SKU = Sku("SKU-LAST")
WHEN = {
    "charge_card": payment.handlers.when_charge,
    "refund_card": payment.handlers.when_refund,
    "send_mail": notification.handlers.when_mail,
}


class Effect(NamedTuple):
    """What follows from something said: events by queue, intents, a timer, and the tokens to be remembered."""

    posts: tuple[tuple[int, int], ...] = ()
    intents: tuple[int, ...] = ()
    timer: bool = False
    tokens: tuple[str, ...] = ()


class World:
    """The services of one search and everything they may hear and say."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.messages: Names[Message] = Names()
        self.told: Names[frozenset[str]] = Names()
        self.sets: Names[frozenset[int]] = Names()
        self.actors = [Actor(kept, self.messages, laws.CHECKS[kept.on.service]) for kept in _kept()]
        heard = [(consumer, topic) for consumer in range(4) for topic in self.actors[consumer].on.topics()]
        self.queues = heard if scope.mail else [pair for pair in heard if pair[0] != NOTIFICATION]
        self._effects: dict[tuple[int, int, int], Effect] = {}
        self._tellings: dict[tuple[int, tuple[str, ...]], int] = {}
        self._rulings: dict[tuple[int, int, int, bool], Decision] = {}
        names = [chr(ord("A") + n) for n in range(scope.orders)]
        self.deadlines = [self.number(OrderDeadline(name, DEADLINE)) for name in names]
        self.cancels = [self.number(CancelOrder(name, "local", "local")) for name in names]
        self.late_cancels = [[self._late_cancel(name, hours) for hours in (0.4, 24)] for name in names]
        self.given_up = [[self.number(GiveUpWaiting(name, who)) for who in ("inventory", "payment")] for name in names]
        self.retries = [self.number(RetryCompensation(name)) for name in names]
        self.resolves = [(self.number(_resolve(name)), self.number(_resolve(name, laws.ASKED))) for name in names]
        level = Level(SKU, available=scope.stock, received=scope.stock, sealed=scope.sealed)
        self.stock = self.actors[INVENTORY].begins(levels={SKU: level})
        self.lives = tuple(self._placed(n, name) for n, name in enumerate(names))

    def number(self, message: Message, at: datetime = START) -> int:
        """Return the number of a message, with its time."""
        return self.messages.of(stamp(message, at))

    def _late_cancel(self, name: str, hours: float) -> int:
        """Return the number of an operator's command so long after the start: its actor keeps it apart from others."""
        return self.number(CancelOrder(name, None, f"operator, {hours} h"), START + timedelta(hours=hours))

    def heard(self, life: Life, service: int, message: int, stock: int = -1) -> tuple[Life, int]:
        """Return life and stock after a service heard a message; the inbox stops what was handled before."""
        if self.scope.again and not isinstance(self.messages[message], Command):  # whose ids no inbox holds
            seen = self.sets[life.seen[service]]
            if self.scope.inbox and message in seen:
                return life, stock
            life = life._replace(seen=swapped(life.seen, service, self.sets.of(seen | {message})))
        state = stock if service == INVENTORY else life.states[service]
        reacted = self.actors[service].receives(state, message)
        if service == INVENTORY:
            stock = reacted.state
        else:
            life = life.knowing(service, reacted.state)
        if not reacted.emitted:
            return life, stock
        effect = self._effects.get((service, state, message))
        if effect is None:
            effect = self._effects[service, state, message] = self._follows(service, reacted.emitted)
        return self._tell(life, service, effect), stock

    def _tell(self, life: Life, service: int, effect: Effect) -> Life:
        """Return the life after a service said something; raises Broken if a law forbids it."""
        told = self._tellings.get((life.told, effect.tokens))
        if told is None:
            after = laws.tell(self.told[life.told], effect.tokens)
            told = self._tellings[life.told, effect.tokens] = self.told.of(after)
        for queue, fact in effect.posts:
            life = life.queued(queue, (*life.queues[queue], fact))
        if effect.intents:
            rows = (*life.rows, *(Row(service, intent) for intent in effect.intents))
            life = life._replace(rows=tuple(sorted(rows)))
        return life._replace(told=told, timer=life.timer or (effect.timer and self.scope.deadline))

    def ruling(self, life: Life, row: Row) -> Decision:
        """Return what the service's own ruling says of an intent about to be leased."""
        intent, state = self.messages[row.intent], life.states[row.service]
        if intent.type not in WHEN:
            return Decision.PROCEED
        key = (row.service, state, row.intent, life.late)
        if key not in self._rulings:
            now = DEADLINE + timedelta(seconds=1) if life.late else START
            work: Any = self.actors[row.service].work(state)
            self._rulings[key] = WHEN[intent.type](stamp(intent, now), work)  # type: ignore[operator] # by its own type
        return self._rulings[key]

    def resolve(self, life: Life, service: int) -> int:
        """Return an operator's command to resolve what a service owes: told whether the cancellation waits there."""
        waiting = [*life.lines[service], *(fact for whose, fact in life.aside if whose == service)]
        unread = any(self.messages[fact].type == laws.ASKED for fact in waiting)
        return self.resolves[life.number][unread]

    def unseal(self, stock: int) -> int:
        """Return a stock keeper's word that sold goods may come back, whatever is available."""
        level = row(self.actors[INVENTORY].states[stock], "levels", SKU)
        return self.number(SetStock(SKU, level.available, sealed=False))

    def at_rest(self, life: Life) -> bool:
        """Tell whether nothing is under way and nobody is to act; where operators act, a failed undo is theirs."""
        waits = self.scope.operator and life.quiet and self.order(life).status == "COMPENSATION_FAILED"
        return life.quiet and not waits

    def order(self, life: Life) -> Order:
        """Return the order's row."""
        found: Order = dict(dict(self.actors[ORDER].states[life.states[ORDER]])["rows"])[self.name(life)]
        return found

    def name(self, life: Life) -> str:
        """Return the order's id."""
        return chr(ord("A") + life.number)

    def queue_of(self, service: int, message: int) -> int:
        """Return the queue in which an event comes to a service; -1 for what is no event."""
        found = self.messages[message]
        return self.queues.index((service, found.topic)) if isinstance(found, Event) else -1

    def _follows(self, service: int, emitted: tuple[Emitted, ...]) -> Effect:
        posts, intents = [], []
        for one in emitted:
            if isinstance(one, Intent):
                intents.append(self.number(one))
            if not isinstance(one, Event):
                continue
            for queue, (consumer, topic) in enumerate(self.queues):
                taken = self.actors[consumer].takes(one) if topic == f"{SERVICES[service]}.events" else None
                if taken:
                    posts.append((queue, self.number(taken)))
        tokens = tuple(token(one) for one in emitted if is_outward(one) and not isinstance(one, Timer))
        timer = any(isinstance(one, OrderDeadline) for one in emitted)  # a check of what waits decides nothing
        return Effect(tuple(posts), tuple(intents), timer, tokens)

    def _placed(self, number: int, name: str) -> Life:
        scope, customer = self.scope, f"customer {name}"
        blocked = {customer: customer} if scope.blocked else {}
        contacts = {CustomerId(customer): Contact(CustomerId(customer), "a@b.example")} if scope.address else {}
        states = (
            self.actors[ORDER].begins(blocked=blocked),
            0,
            self.actors[2].begins(),
            self.actors[NOTIFICATION].begins(contacts=contacts),
        )
        left = Left(scope.again, scope.parked, scope.discarded, scope.frozen, scope.commands)
        nothing = ((),) * len(self.queues), ((),) * 4, (), (), ()
        told, seen = self.told.of(frozenset()), (self.sets.of(frozenset()),) * 4
        life = Life(number, states, *nothing, told, seen, left)
        return self.heard(life, ORDER, self.number(_wish(name, customer)))[0]


def _wish(name: str, customer: str) -> PlaceOrder:
    lines = (Line(SKU, 1, PRICE),)
    asked = name, "local", customer, None, "tok", "EUR", PRICE, lines
    return PlaceOrder(*asked, START, DEADLINE, "0" * 32)


def _resolve(name: str, *waiting: str) -> ResolveCompensation:
    command = ResolveCompensation(
        name, "EXTERNAL", "ann", f"{len(waiting)} unread"
    )  # equal commands would be one message
    tell_waiting(command, waiting)
    return command


def _kept() -> list[Kept]:
    return [
        Kept(order.handlers.on, Rules(), _without_history),
        Kept(inventory.handlers.on, None, _without_version),
        Kept(payment.handlers.on, passing=("hurried",)),
        Kept(notification.handlers.on),
    ]


def _without_history(row: Any) -> Any:  # noqa: ANN401 - the rows of every table of the order service
    """Forget how an order came where it is: handlers add to its history and version and decide by neither."""
    return replace(row, history=(), version=1) if isinstance(row, Order) else row


def _without_version(row: Any) -> Any:  # noqa: ANN401 - as above
    return replace(row, version=0) if isinstance(row, Level) else row
