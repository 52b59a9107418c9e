"""Everything that may happen next, as two tables: what happens to one order, and what needs the shared stock too.

A new kind of event (an operator's command, say) is one more function in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from notification.events import SendMail, SendMailDropped
from payment.events import ChargeCard, ChargeCardDropped, RefundCard, RefundCardDropped
from quadrille.intents import Decision
from quadrille.messages import Message
from quadrille_cli.services import SERVICES
from tests.model.actors import Raised
from tests.model.laws import Broken
from tests.model.life import CHANCE, FAIR, INVENTORY, ORDER, OUT, PAYMENT, Life, Step
from tests.model.outside import Came, called
from tests.model.states import check_leased
from tests.model.world import World

Action: TypeAlias = Callable[[World, Life], Iterator[Step]]
SharedAction: TypeAlias = Callable[[World, int, Life], Iterator[Step]]


def hear(world: World, stock: int, life: Life) -> Iterator[Step]:
    """A service hears the next event of a topic; behind a parked one it waits in line."""
    for queue, facts in enumerate(life.queues):
        service = world.queues[queue][0]
        if facts and (service == INVENTORY) == (stock >= 0):
            rest = life.queued(queue, facts[1:])
            if line := life.lines[service]:
                behind = rest.lined(service, (*line, facts[0]))
                yield Step(_line(world, service, facts[0], "waits behind a parked one"), FAIR, behind, stock)
            else:
                yield _hears(world, service, facts[0], rest, stock)


def redrive(world: World, stock: int, life: Life) -> Iterator[Step]:
    """The first of a line is handled again, or a discarded event is replayed, out of its order."""
    for service, line in enumerate(life.lines):
        if line and (service == INVENTORY) == (stock >= 0):
            yield _how("redriven", _hears(world, service, line[0], life.lined(service, line[1:]), stock))
    for place, (service, fact) in enumerate(life.aside):
        if (service == INVENTORY) == (stock >= 0):
            rest = life._replace(aside=(*life.aside[:place], *life.aside[place + 1 :]))
            yield _how("replayed", _hears(world, service, fact, rest, stock))


def set_aside(world: World, life: Life) -> Iterator[Step]:
    """An event is parked, or passed over until somebody replays it."""
    for queue, facts in enumerate(life.queues):
        service = world.queues[queue][0]
        if not facts or life.lines[service]:
            continue
        rest = life.queued(queue, facts[1:])
        if left := life.left.parked:
            parked = rest.lined(service, (facts[0],)).spent(parked=left - 1)
            yield Step(_line(world, service, facts[0], "is parked"), CHANCE, parked)
        if left := life.left.discarded:
            aside = tuple(sorted((*life.aside, (service, facts[0]))))
            passed = rest._replace(aside=aside).spent(discarded=left - 1)
            yield Step(_line(world, service, facts[0], "is discarded"), CHANCE, passed)


def again(world: World, life: Life) -> Iterator[Step]:
    """A service is given once more what it has handled: an event at the head of its topic, an answer or a timer now."""
    if not (left := life.left.again):
        return
    spent = life.spent(again=left - 1)
    for service in range(4):
        for message in sorted(world.sets[life.seen[service]]):
            queue = world.queue_of(service, message)
            if queue >= 0:
                twice = spent.queued(queue, (message, *life.queues[queue]))
                yield Step(_line(world, service, message, "comes again"), CHANCE, twice)
            else:
                yield _how("once more", _hears(world, service, message, spent, -1), fair=CHANCE)


def clock(world: World, life: Life) -> Iterator[Step]:
    """The deadline passes, then its timer fires."""
    if life.timer and not life.late:
        yield Step("the deadline passes", FAIR, life._replace(late=True))
    elif life.timer:
        yield _hears(world, ORDER, world.deadlines[life.number], life._replace(timer=False), -1)


def cancel(world: World, life: Life) -> Iterator[Step]:
    """The customer cancels, as long as that changes anything; late operators are asked for the checks alone."""
    for command in world.late_cancels[life.number]:
        _hears(world, ORDER, command, life, -1)
    if world.scope.cancel:
        step = _hears(world, ORDER, world.cancels[life.number], life, -1)
        if step.life.states != life.states:
            yield _how("the customer cancels", step, fair=CHANCE)


def away(world: World, life: Life) -> Iterator[Step]:
    """A participant the order waits for falls silent, and the order is given up for it."""
    if world.scope.away:
        for command in world.given_up[life.number]:
            step = _hears(world, ORDER, command, life, -1)
            if step.life.states != life.states:
                yield _how("a participant is away", step, fair=CHANCE)


def lease(world: World, life: Life) -> Iterator[Step]:
    """An intent is taken in hand by a sender; by a second one if the first is frozen and its lease ran out."""
    for place, row in enumerate(life.rows):
        if row.hands and (len(row.hands) > 1 or not life.left.frozen):
            continue
        leased = life.spent(frozen=life.left.frozen - 1) if row.hands else life
        intent, ruling = world.messages[row.intent], world.ruling(life, row)
        emitted = f"{SERVICES[row.service]} {'takes in hand, again,' if row.hands else 'takes in hand'} {intent.type}"
        if ruling is Decision.PROCEED:
            check_leased(world, life, intent)
            yield Step(
                emitted, not row.hands, leased.rowed(place, row._replace(hands=tuple(sorted((*row.hands, OUT)))))
            )
        elif ruling is Decision.CANCEL:
            dropped = world.number(_dropped(intent))
            yield from _answered(world, leased, place, dropped, fair=not row.hands)


def call(world: World, life: Life) -> Iterator[Step]:
    """A sender reaches the outside."""
    for place, row in enumerate(life.rows):
        if OUT not in row.hands:
            continue
        others = tuple(hand for n, hand in enumerate(row.hands) if n != row.hands.index(OUT))
        for came in called(world.scope, life, world.messages[row.intent]):
            hands = others if came.answer is None else (*others, world.number(came.answer))
            after = life.rowed(place, row._replace(hands=tuple(sorted(hands))))
            after = _done(after, came)
            if came.late:
                after = _adrift(after, row.intent).spent(frozen=life.left.frozen - 1)
            yield Step(f"{world.messages[row.intent].type}: {came.line}", came.fair, after)


def answer(world: World, life: Life) -> Iterator[Step]:
    """An answer is committed; it ends its intent."""
    for place, row in enumerate(life.rows):
        for hand in sorted({hand for hand in row.hands if hand != OUT}):
            yield from _answered(world, life, place, hand)


def adrift(world: World, life: Life) -> Iterator[Step]:
    """A request nobody waits for reaches the processor, or is lost for good."""
    for place, intent in enumerate(life.adrift):
        rest = life._replace(adrift=(*life.adrift[:place], *life.adrift[place + 1 :]))
        yield Step(f"a late {world.messages[intent].type} is lost on its way", FAIR, rest)
        for came in called(world.scope, life, world.messages[intent]):
            after = _done(rest, came)
            if after != rest and not came.late:
                after = after._replace(stray=after.refunded or rest.stray)
                yield Step(f"a late {world.messages[intent].type} arrives: {came.line}", CHANCE, after)


def operate(world: World, life: Life) -> Iterator[Step]:
    """An operator retries the refund so many times, and resolves the payment: what is owed is resolved at last."""
    if not world.scope.operator:
        return
    left = life.left.commands
    retried = _hears(world, PAYMENT, world.retries[life.number], life, -1)
    if retried.life != life and left:
        spent = retried._replace(life=retried.life.spent(commands=left - 1))
        yield _how("the operator retries", spent, fair=CHANCE)
    resolved = _hears(world, PAYMENT, world.resolve(life, PAYMENT), life, -1)
    if resolved.life == life:
        return
    if not any(world.messages[row.intent].type == "inquire_refund" for row in life.rows):
        yield _how("the operator resolves", resolved)
    elif left:
        again = resolved._replace(life=resolved.life.spent(commands=left - 1))
        yield _how("the operator resolves again", again, fair=CHANCE)


def operate_stock(world: World, stock: int, life: Life) -> Iterator[Step]:
    """An operator retries the release or resolves the hold; goods that were sealed may come back some day."""
    if not world.scope.operator:
        return
    commands = ("retries", world.retries[life.number]), ("resolves", world.resolve(life, INVENTORY))
    for what, command in commands:
        step = _hears(world, INVENTORY, command, life, stock)
        if step.stock != stock:
            yield _how(f"the operator {what}", step, fair=what == "resolves")
    if world.scope.sealed:
        step = _hears(world, INVENTORY, world.unseal(stock), life, stock)
        if step.stock != stock:
            yield _how("the seal is lifted", step, fair=CHANCE)


def decide(world: World, life: Life) -> Iterator[Step]:
    """The processor comes to a decision about what it is still processing."""
    if life.charge == "processing":
        for decided in world.scope.card:
            yield Step(f"the processor decides at last: {decided}", FAIR, life._replace(charge=decided))


def _hear(world: World, life: Life) -> Iterator[Step]:
    return hear(world, -1, life)


def _redrive(world: World, life: Life) -> Iterator[Step]:
    return redrive(world, -1, life)


ACTIONS: list[Action] = [
    _hear,
    answer,
    call,
    lease,
    clock,
    cancel,
    away,
    _redrive,
    set_aside,
    again,
    adrift,
    decide,
    operate,
]
SHARED: list[SharedAction] = [hear, redrive, operate_stock]


def _answered(world: World, life: Life, place: int, message: int, *, fair: bool = FAIR) -> Iterator[Step]:
    row = life.rows[place]
    rest = life.rowed(place)
    for hand in row.hands:
        if hand == OUT and isinstance(world.messages[row.intent], ChargeCard | RefundCard):
            rest = _adrift(rest, row.intent)
    late = [hand for hand in row.hands if hand not in (OUT, message)]
    if late and world.scope.again and not world.scope.inbox:  # one intent's answers share an id: the inbox stops these
        rest = rest._replace(aside=tuple(sorted((*rest.aside, *((row.service, hand) for hand in late)))))
    yield _hears(world, row.service, message, rest, -1)._replace(fair=fair)


def _done(life: Life, came: Came) -> Life:
    return life._replace(charge=came.charge or life.charge, refunded=came.refunded or life.refunded)


def _adrift(life: Life, intent: int) -> Life:
    return life._replace(adrift=tuple(sorted((*life.adrift, intent))))


def _dropped(intent: Message) -> Message:
    if isinstance(intent, SendMail):
        return SendMailDropped(intent.order_id, intent.kind, intent.customer_id, intent.subject, intent.text)
    dropped = {"charge_card": ChargeCardDropped, "refund_card": RefundCardDropped}
    return dropped[intent.type](getattr(intent, "order_id", ""))


def _hears(world: World, service: int, message: int, life: Life, stock: int) -> Step:
    line = f"{SERVICES[service]} hears {world.messages[message].type}"
    try:
        after, stock_after = world.heard(life, service, message, stock)
    except (Broken, Raised) as broken:
        why = f"{line}: {broken}"
        raise Broken(why) from broken
    return Step(line, FAIR, after, stock_after)


def _how(how: str, step: Step, *, fair: bool = FAIR) -> Step:
    return step._replace(line=f"{how}: {step.line}", fair=fair)


def _line(world: World, service: int, message: int, what: str) -> str:
    return f"{world.messages[message].type} {what} at {SERVICES[service]}"
