"""All four services with their topics and their outside, and one clock over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import inventory.handlers
import notification.gateway
import notification.handlers
import order.handlers
import payment.gateway
import payment.handlers
from inventory.domain import Level, Sku
from inventory.events import SetStock
from notification.domain import Contact, CustomerId
from order.domain import Order, Rules
from order.events import CancelOrder, GiveUpWaiting, Line, PlaceOrder
from payment.domain import State
from payment.events import ChargeCard, ChargeCardDropped, RefundExhausted
from quadrille.gateway.http_client import HttpClient
from quadrille.ids import event_id, id_time, milliseconds
from quadrille.intents import Decision, Gateway
from quadrille.messages import Command, Emitted, Intent, Timer, key_of
from quadrille.processing.envelope import Envelope, Handled, Replayed
from quadrille.processing.idempotency import IdempotencyKey
from quadrille.processing.unit_of_work import OutboxRecord as Sent
from quadrille.service import Service
from quadrille.testing.in_memory import PlainCodec
from tests.model import laws
from tests.model.actors import is_outward, token
from tests.model.laws import must
from tests.model.machine_outside import AWAY, FINE, Bank, PostOffice
from tests.model.machine_room import TOO_OLD, Published, Room, Row, published

START = datetime(2026, 11, 21, 9, 0, 0, 123_456, tzinfo=UTC)
SKU, PRICE = Sku("SKU-TEA"), 2500
NEVER_BEFORE = timedelta(hours=23)  # a refund is not given up before about a day
ROUNDS = 4  # charge, unknown, inquire, charge: it may go round for ever
FARS = ("placed", "reserved", "charging", "decided", "undone")
OFTEN = 110  # more than any retry policy has delays


@dataclass(frozen=True, slots=True)
class Scene:
    """How it begins: goods, customers, and what the processor will decide."""

    stock: int = 2
    trouble: str = ""  # sealed goods, a blocked customer, a homeless one


class House:
    """The whole; what happens to it raises Broken where something is said or done that no law allows."""

    def __init__(self, scene: Scene) -> None:
        self.now = START
        self.scene = scene
        self.bank, self.post = Bank(lambda: self.now), PostOffice()
        processor = payment.gateway.Processor("http://processor.example")
        processor.peer = cast("HttpClient", self.bank)
        self.rooms = {
            "order": self._room(order.handlers.on, None, None, Rules()),
            "inventory": self._room(inventory.handlers.on),
            "payment": self._room(payment.handlers.on, payment.gateway.outside, processor),
            "notification": self._room(notification.handlers.on, notification.gateway.outside, self.post),
        }
        self.topics: dict[tuple[str, str], list[Published]] = {}
        self.read: Counter[tuple[str, str, str]] = Counter()  # by consumer, source and order
        self.told: dict[str, frozenset[str]] = {}
        self.late: list[tuple[Room, Envelope]] = []
        self.orders: dict[str, PlaceOrder] = {}
        self.keys: dict[str, str] = {}
        self._commands = 0
        stock = Level(SKU, available=scene.stock, received=scene.stock, sealed=scene.trouble == "sealed")
        self.rooms["inventory"].work.levels.put(SKU, stock)
        if scene.trouble != "homeless":
            self.rooms["notification"].work.contacts.put(CustomerId("c"), Contact(CustomerId("c"), "a@b.example"))
        if scene.trouble == "blocked":
            self.rooms["order"].work.blocked.put("c", "c")

    def place(self, key: str, card: str = "charged") -> str:
        """Place an order, or repeat it under its key; the id of the order the caller is told."""
        name = f"o-{len(self.orders) + 1}"
        command = PlaceOrder(name, "local", "c", None, "tok", "EUR", PRICE, (Line(SKU, 1, PRICE),),
                          self.now, self.now + Rules().order_deadline, "0" * 32)  # fmt: skip
        once = IdempotencyKey("local", "POST /v1/orders", key, "f", lambda _: "{}")
        outcome = self._ask("order", command, once)
        told = str(outcome.kept.subject) if outcome.kept else ""
        if told == name:
            self.orders[name], self.keys[name] = command, key
            self.bank.decides[name] = card
        return told

    def cancel(self, order_id: str, *, operator: bool = False) -> None:
        """Let the customer, or an operator, want an order undone."""
        self.ask("order", CancelOrder(order_id, None if operator else "local", "ada"))

    def give_up(self, order_id: str, participant: str) -> None:
        """Let a participant be away whose outage policy is to fail fast."""
        self.ask("order", GiveUpWaiting(order_id, participant))

    def go_far(self, order_id: str, far: str) -> None:
        """Let an order come as far as that; a sender dies that is charging."""
        if far != "placed":
            self.flow()
        if far == "charging":
            for room, row in self.due(Intent):
                self.carry_out(room, row, FINE, "die")
        if far in ("decided", "undone"):
            self.go(FINE)
        if far == "undone":
            self.cancel(order_id)
            self.flow()

    def ask(self, service: str, command: Command) -> list[Any]:
        """Give a service a command, as its api does; what it answers and says."""
        return list(cast("Handled", self._ask(service, command)).emitted)

    def _ask(self, service: str, command: Command, once: IdempotencyKey | None = None) -> Handled | Replayed:
        self._commands += 1
        identity = event_id("client", UUID(int=self._commands), command.type, 0, milliseconds(self.now))
        envelope = Envelope(identity, key_of(command), command, self.now, command.type, request=once)
        outcome = self.rooms[service].commit(envelope)
        must(isinstance(outcome, Handled | Replayed), "L11", f"{service} could not take {command.type}: {outcome}")
        return cast("Handled | Replayed", outcome)

    def unread(self) -> list[tuple[str, str, str]]:
        """Return the (consumer, source, order) of which there is something to read."""
        return [place for place in self._places() if self._next(place) is not None]

    def deliver(self, place: tuple[str, str, str], *, dies: bool = False) -> None:
        """Let a service hear the next event of an order from a topic; who dies before its COMMIT reads it again."""
        came, room = cast("Published", self._next(place)), self.rooms[place[0]]
        room.hear(came, dies=dies)
        self.read[place] += not dies

    def flow(self) -> None:
        """Let everything be read that can be read."""
        while places := self.unread():
            for place in places:
                if self._next(place):
                    self.deliver(place)

    def rewind(self, place: tuple[str, str, str]) -> None:
        """Let a service read a topic's events of an order from the beginning again."""
        self.read[place] = 0

    def carry_out(self, room: Room, row: Row, mood: str, after: str = "commit") -> None:
        """Lease an intent and call the outside in a mood; ``after``: its answer is committed, lost or comes late."""
        self.bank.mood = self.post.mood = mood
        answer = room.lease(row)
        self.bank.mood = self.post.mood = FINE
        dropped = isinstance(answer, Envelope) and isinstance(answer.body, ChargeCardDropped)
        if isinstance(row.message, ChargeCard) and answer is not Decision.DEFER and not dropped:
            self._check_begun(row.message)
        if not isinstance(answer, Envelope):
            return
        if isinstance(answer.body, RefundExhausted):
            must(self.now - id_time(row.id) >= NEVER_BEFORE, "F9", "a refund was given up before a day was over")
        if after == "late":
            self.late.append((room, answer))
        elif after == "commit":
            room.commit(answer)

    def wake(self, number: int) -> None:
        """Let a frozen sender commit the answer it has had for a while."""
        room, answer = self.late.pop(number)
        if answer.from_task not in room.kept.tasks and answer.id not in room.kept.inbox:
            del room.handled[answer.id]  # handled so long ago that no inbox knows: the state has to
        room.commit(replace(answer, at=self.now))

    def hammer(self, room: Room, row: Row) -> None:
        """Try an intent very often within minutes, as a breaker does that opens and closes; nobody ever answers."""
        for _ in range(OFTEN):
            if room.open(row):
                row.due = self.now  # quadrille.tasks.scheduler
                self.carry_out(room, row, AWAY)
                self.jump(timedelta(seconds=1))

    def go(self, mood: str) -> None:
        """Let everything be read and carried out, with the outside in a mood."""
        self.flow()
        for _ in range(ROUNDS):
            for room, row in self.due(Intent):
                self.carry_out(room, row, mood)
            self.flow()

    def due(self, kind: type[Intent | Timer]) -> list[tuple[Room, Row]]:
        """Return what may be leased now, with its service."""
        return [(room, row) for room in self.rooms.values() for row in room.due(kind)]

    def caught_up(self, room: Room) -> bool:
        """Tell whether a service has read everything; only then its timers fire."""
        return not any(place[0] == room.name for place in self.unread())

    def redrive(self, room: Room, lane: str, *, old: bool) -> None:
        """Handle the first of a line again; a person may let in what is older than the inbox can tell."""
        kept = room.kept
        identity = kept.lanes[lane][0]
        parked, why = kept.parked[identity]
        room.hear(parked, old=old and why == TOO_OLD, redriven=True)

    def jump(self, wait: timedelta) -> None:
        """Let time pass; the inbox forgets what is older than its window."""
        self.now += wait
        for room in self.rooms.values():
            room.prune()

    def row(self, order_id: str) -> Order:
        """Return the order as the order service has it."""
        return cast("Order", self.rooms["order"].work.known(order_id))

    @property
    def sealed(self) -> bool:
        """Whether goods once sold may not come back."""
        return bool(self.rooms["inventory"].work.levels.get(SKU).sealed)

    def unseal(self) -> None:
        """Let sold goods come back, whatever is available."""
        level = self.rooms["inventory"].work.levels.get(SKU)
        self.ask("inventory", SetStock(SKU, level.available, sealed=False))

    def hold(self, order_id: str) -> Any:  # noqa: ANN401 - a row, or None
        """Return the hold as inventory has it."""
        return self.rooms["inventory"].work.holds.get(order_id)

    def paid(self, order_id: str) -> Any:  # noqa: ANN401 - a row, or None
        """Return the payment as payment has it."""
        return self.rooms["payment"].work.payments.get(order_id)

    def _check_begun(self, intent: ChargeCard) -> None:
        """A charge goes out past its deadline only if somebody has decided, or its key may be in use (L1, L7)."""
        paid = self.paid(intent.order_id)
        late = self.now > paid.price.deadline_at
        must(not late or paid.cancel_wanted or paid.state is State.UNKNOWN, "L1", "charged late, and nobody decided")

    def _hears(self, room: Room, emitted: tuple[Emitted, ...], facts: Iterable[Sent]) -> None:
        """Remember what a service said, refuse what may not be said, and put it on its topic."""
        for one in emitted:
            if is_outward(one) and not isinstance(one, Timer):
                name = key_of(one)
                self.told[name] = laws.tell(self.told.get(name, frozenset()), [token(one)])
        for fact in facts:
            if fact.topic == f"{room.name}.events":
                self.topics.setdefault((room.name, fact.key), []).append(published(fact, self.now))

    def _room(self, on: Any, outside: Gateway | None = None, client: object = None, rules: object = None) -> Room:  # noqa: ANN401 - of any service
        service: Service[Any] = Service(on, cast("Any", None), PlainCodec(), outside or Gateway(on.service), rules)
        room = Room(service, client, lambda: self.now)
        room.tell = lambda emitted, facts: self._hears(room, emitted, facts)
        return room

    def _places(self) -> Iterator[tuple[str, str, str]]:
        for source, name in self.topics:
            for consumer, room in self.rooms.items():
                if f"{source}.events" in room.topics:
                    yield consumer, source, name

    def _next(self, place: tuple[str, str, str]) -> Published | None:
        """Return the next record a service hears, having stepped over those it does not."""
        consumer, source, name = place
        facts = self.topics[source, name]
        while self.read[place] < len(facts):
            if not self.rooms[consumer].unheard(came := facts[self.read[place]]):
                return came
            self.read[place] += 1
        return None
