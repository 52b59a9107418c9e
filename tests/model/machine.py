"""Long lives under a moving clock: a Hypothesis state machine over the real handlers, their inbox, ids and retries.

``python -m tests.model.machine [seed] [lives]``: run it, print the story that breaks a law, exit 1 on one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import payment.gateway
from payment.events import ChargeCard
from quadrille.messages import Intent, Message, Timer
from quadrille.system_messages import ResolveCompensation, RetryCompensation
from tests.model.laws import must
from tests.model.machine_house import FARS, House, Scene
from tests.model.machine_laws import check, check_rest
from tests.model.machine_outside import FINE, MOODS
from tests.model.machine_room import Room, Row

LIVES = os.environ.get("QUADRILLE_LIVES", "100")
STEPS = 40
ORDERS = 3
WAITS = [timedelta(seconds=s) for s in (1, 31, 31, 301, 301, 2000)]
WAITS += [timedelta(hours=h) for h in (1, 12, 21, 25, 49, 192)]
PICK = st.integers(0, 7)
CARD = st.sampled_from(["charged", "charged", "declined"])
MOOD = st.sampled_from([FINE, FINE, FINE, *MOODS])
FAR = st.sampled_from(FARS)
TROUBLE = st.sampled_from(["", "", "sealed", "blocked", "homeless"])
LONGEST = 500  # steps to the end, when everything goes well again


class Machine(RuleBasedStateMachine):
    """Anything that may happen, in any order, at any time; at last everything goes well again and must end."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(Scene())

    @initialize(stock=st.sampled_from([2, 1]), troubled=TROUBLE, far=FAR)
    def begin(self, stock: int, troubled: str, far: str) -> None:
        """A shop opens, and somebody orders."""
        self.house = House(Scene(stock, troubled))
        self.house.go_far(self.house.place("key 0"), far)

    @precondition(lambda self: len(self.house.orders) < ORDERS)
    @rule(card=CARD, far=FAR)
    def place(self, card: str, far: str) -> None:
        """Somebody orders."""
        self.house.go_far(self.house.place(f"key {len(self.house.orders)}", card), far)

    @rule(pick=PICK)
    def post_again(self, pick: int) -> None:
        """A client repeats its POST: within 48 hours it is the same order (invariant 2)."""
        house = self.house
        name, command = sorted(house.orders.items())[pick % len(house.orders)]
        if house.now - command.placed_at <= timedelta(hours=48):
            told = house.place(house.keys[name])
            must(told == name, "2", f"{told} is a second order of the key of {name}")

    @precondition(lambda self: self.house.unread())
    @rule(pick=PICK, dies=st.sampled_from([False, False, False, True]))
    def deliver(self, pick: int, *, dies: bool) -> None:
        """One service hears one event, or dies over it."""
        places = self.house.unread()
        self.house.deliver(places[pick % len(places)], dies=dies)

    @precondition(lambda self: self.house.unread())
    @rule()
    def flow(self) -> None:
        """Everything is read."""
        self.house.flow()

    @rule(mood=MOOD)
    def go(self, mood: str) -> None:
        """Everything goes on for a while, with the outside in one mood."""
        self.house.go(mood)

    @precondition(lambda self: any(self.house.read.values()))
    @rule(pick=PICK)
    def rewind(self, pick: int) -> None:
        """A service reads what it has read already."""
        places = sorted(place for place, upto in self.house.read.items() if upto)
        self.house.rewind(places[pick % len(places)])

    @precondition(lambda self: self.house.due(Intent))
    @rule(pick=PICK, mood=MOOD)
    def work(self, pick: int, mood: str) -> None:
        """An intent is carried out, in whatever mood the outside is."""
        due = self.house.due(Intent)
        self.house.carry_out(*due[pick % len(due)], mood)

    @precondition(lambda self: self.house.due(Intent))
    @rule(pick=PICK, mood=MOOD, wakes=st.booleans())
    def freeze(self, pick: int, mood: str, *, wakes: bool) -> None:
        """A sender dies with the answer in its hand, or is frozen and wakes up with it some day."""
        due = self.house.due(Intent)
        self.house.carry_out(*due[pick % len(due)], mood, "late" if wakes else "die")

    @precondition(lambda self: self.waiting())
    @rule(pick=PICK)
    def hammer(self, pick: int) -> None:
        """The outside comes and goes: an intent is tried a hundred times within minutes, and never answered."""
        waiting = self.waiting()
        self.house.hammer(*waiting[pick % len(waiting)])

    @precondition(lambda self: self.house.late)
    @rule(pick=PICK)
    def wake(self, pick: int) -> None:
        """A frozen sender wakes up with its answer."""
        self.house.wake(pick % len(self.house.late))

    @precondition(lambda self: self.house.bank.adrift)
    @rule(arrives=st.booleans())
    def adrift(self, *, arrives: bool) -> None:
        """A request that nobody waits for reaches the processor, or is lost for good."""
        if arrives:
            self.house.bank.drift()
        else:
            del self.house.bank.adrift[0]

    @precondition(lambda self: self.house.bank.processing)
    @rule()
    def settle(self) -> None:
        """The processor decides at last."""
        self.house.bank.settle(self.house.bank.processing[0])

    @precondition(lambda self: self.timers())
    @rule()
    def fire(self) -> None:
        """A timer that is due fires."""
        room, row = self.timers()[0]
        room.fire(row)

    @rule(pick=PICK, operator=st.booleans())
    def cancel(self, pick: int, *, operator: bool) -> None:
        """The customer, or an operator, wants an order undone."""
        self.house.cancel(sorted(self.house.orders)[pick % len(self.house.orders)], operator=operator)

    @rule(pick=PICK, participant=st.sampled_from(["inventory", "payment"]))
    def away(self, pick: int, participant: str) -> None:
        """A participant falls silent, and an order that waits for it is given up."""
        self.house.give_up(sorted(self.house.orders)[pick % len(self.house.orders)], participant)

    @rule(wait=st.sampled_from(WAITS))
    def jump(self, wait: timedelta) -> None:
        """Time passes."""
        self.house.jump(wait)

    @precondition(lambda self: self.lanes())
    @rule(pick=PICK, old=st.booleans())
    def redrive(self, pick: int, *, old: bool) -> None:
        """The first of a line is handled again; a person may let in what is too old."""
        lanes = self.lanes()
        self.house.redrive(*lanes[pick % len(lanes)], old=old)

    @rule(pick=PICK, service=st.sampled_from(["inventory", "payment"]), gives_up=st.booleans())
    def operate(self, pick: int, service: str, *, gives_up: bool) -> None:
        """An operator tries an undo again, or ends it with evidence."""
        name = sorted(self.house.orders)[pick % len(self.house.orders)]
        self.house.ask(
            service, ResolveCompensation(name, "EXTERNAL", "ada", "ticket 7") if gives_up else RetryCompensation(name)
        )

    @rule(pick=PICK)
    def close_card(self, pick: int) -> None:
        """A card is closed, and what was charged to it cannot go back; or it is opened again."""
        self.house.bank.refuses ^= {sorted(self.house.orders)[pick % len(self.house.orders)]}

    @precondition(lambda self: self.house.sealed)
    @rule()
    def unseal(self) -> None:
        """Sealed goods may come back from now on."""
        self.house.unseal()

    @invariant()
    def laws_hold(self) -> None:
        """The laws hold."""
        check(self.house)

    def teardown(self) -> None:
        """Everything goes well again: everything ends, and agrees."""
        for _ in range(LONGEST):
            if not self.go_on():
                break
            check(self.house)
        check_rest(self.house)

    def go_on(self) -> bool:
        """Do what is to be done, or wait until there is something; tell whether there was."""
        house = self.house
        if house.unread():
            house.flow()
        elif house.late:
            house.wake(0)
        elif house.bank.adrift:
            house.bank.drift()
        elif house.bank.processing:
            house.bank.settle(house.bank.processing[0])
        elif lanes := self.lanes():
            house.redrive(*lanes[0], old=True)
        elif due := self.house.due(Intent):
            house.carry_out(*due[0], FINE)
        elif self.resolve():
            return True
        elif timers := self.timers():
            timers[0][0].fire(timers[0][1])
            self.wait(Intent)  # after days there are hundreds of looks to catch up with
        else:
            return self.wait(Message)
        return True

    def wait(self, kind: type[Message]) -> bool:
        """Let time pass until the next row of a kind is due; tell whether there is one."""
        rows = [row for room in self.house.rooms.values() for row in room.kept.tasks.values()]
        at = [max(row.due, row.leased_until or row.due) for row in rows if isinstance(row.message, kind)]
        if at:
            self.house.jump(max(min(at) - self.house.now, timedelta()) + timedelta(milliseconds=1))
        return bool(at)

    def resolve(self) -> bool:
        """Let a person end what failed; tell whether there was something."""
        failed = [(name, one) for name in self.house.orders for one in self.house.row(name).detail.failed]
        for name, failure in failed:
            self.house.ask(failure.participant, ResolveCompensation(name, "WRITTEN_OFF", "ada", "ticket 7"))
        return bool(failed)

    def waiting(self) -> list[tuple[Room, Row]]:
        """Return the intents that nobody has in hand, with their service; a charge never gives up, and waits."""
        return [
            (room, row)
            for room in self.house.rooms.values()
            for row in room.kept.tasks.values()
            if room.open(row) and not isinstance(row.message, ChargeCard)
        ]

    def timers(self) -> list[tuple[Room, Row]]:
        """Return the timers that may fire: those of services that have read everything."""
        return [(room, row) for room, row in self.house.due(Timer) if self.house.caught_up(room)]

    def lanes(self) -> list[tuple[Room, str]]:
        """Return the lines in which something waits."""
        return [(room, line) for room in self.house.rooms.values() for line in sorted(room.kept.lanes)]


def run(number: int, lives: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """Let so many lives be lived, drawn from a seed; raises what breaks a law, its notes tell the shortest story."""
    wanted = settings(
        max_examples=lives,
        stateful_step_count=STEPS,
        database=None,  # what once failed is told again, step by step, by test_machine.py
        phases=phases,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(number)(Machine), settings=wanted)


def main(number: str = "1", lives: str = LIVES, story: str = "shortest") -> int:
    """Run it once; print a JSON line, with the shortest story, or the ``first`` one as it was lived."""
    began, told = time.process_time(), ""
    payment.gateway.FAST_TRIES = (0.0,) * 4  # nobody sleeps here
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        run(int(number), int(lives), [Phase.generate] if story == "first" else tuple(Phase))
    except Exception as broken:  # noqa: BLE001 - whatever it is, it is the story's end
        told = "\n".join([*getattr(broken, "__notes__", ()), f"=> {type(broken).__name__}: {broken}"])
    report = {"seed": int(number), "lives": int(lives), "seconds": time.process_time() - began, "broken": told}
    sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
