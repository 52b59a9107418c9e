"""Faults of a running stack: how each is injected and healed, and the seeded pairs of them."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from quadrille.kafka.config import client_settings
from quadrille_cli.chaos.faults import DATABASES, ROLES, signalled
from quadrille_cli.stack import Stack

Act: TypeAlias = Callable[[Stack, str], None]
# kinds, targets, and how often of twelve
AREAS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "database": (("killed", "stopped", "frozen", "read-only"), DATABASES, 4),
    "broker": (("killed", "frozen"), ("kafka",), 2),
    "role": (("frozen", "frozen", "killed"), ROLES, 4),
    "registry": (("killed", "frozen"), ("registry",), 1),
    "outside": (("killed", "frozen"), ("sandbox",), 1),
}
SESSIONS = b"SELECT count(*) FROM pg_stat_activity WHERE usename = 'relay'"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one process of the stack."""

    kind: str
    target: str

    def __str__(self) -> str:
        return f"{self.target} {self.kind}"

    def inject(self, stack: Stack) -> None:
        """Let it happen."""
        ACTS[self.kind][0](stack, self.target)

    def heal(self, stack: Stack) -> None:
        """End it; what was ended is launched, not waited for."""
        ACTS[self.kind][1](stack, self.target)

    def told(self, stack: Stack) -> bool:
        """Whether the others have had to notice: a frozen worker is out of its group, a frozen relay has no session.

        Where the one who would have to say so is away as well, that is as it is.
        """
        service, _, role = self.target.partition("-")
        if self.kind != "frozen":
            return True
        if role == "worker":
            return _members(stack, service) == 0
        return role != "relay" or _sessions(stack, service) == 0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two faults that overlap: the second comes ``gap`` looks after the first, both last ``hold`` looks at least.

    ``last`` tells which of them is healed last, ``rest`` looks after the other.
    """

    number: int
    first: Fault
    second: Fault
    gap: int = 0
    hold: int = 3
    last: int = 1
    rest: int = 0

    @property
    def healing(self) -> tuple[Fault, Fault]:
        """The faults in the order of their healing."""
        return (self.first, self.second) if self.last == 1 else (self.second, self.first)

    def __str__(self) -> str:
        there = f"{self.first}, {self.gap} looks later {self.second}"
        return f"{there}; {self.healing[0].target} back {self.rest} looks before {self.healing[1].target}"


def pairs(seed: int, count: int) -> Iterator[Pair]:
    """Yield a seed's pairs; each depends on the seed and its number alone, so that one can be run again by itself."""
    for number in range(1, count + 1):
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - a schedule
        first = second = _fault(rng)
        while second.target == first.target:
            second = _fault(rng)
        yield Pair(number, first, second, rng.randint(0, 4), rng.randint(2, 8), rng.randint(0, 1), rng.randint(0, 4))


SINGLES = (
    Fault("killed", "postgres:order"), Fault("frozen", "postgres:inventory"), Fault("read-only", "postgres:payment"),
    Fault("stopped", "postgres:notification"), Fault("killed", "kafka"), Fault("killed", "registry"),
    Fault("frozen", "sandbox"), Fault("killed", "order-api"), Fault("frozen", "inventory-worker"),
    Fault("killed", "payment-worker"), Fault("frozen", "order-relay"), Fault("killed", "inventory-relay"),
)  # fmt: skip
"""Twelve faults, each on a process of its own, of which any two may come at once."""


def every(seed: int) -> list[Pair]:
    """Return every pair of the twelve, in an order, and as far apart, as the seed says."""
    rng = random.Random(seed)  # noqa: S311 - a schedule
    both = [list(two) for two in combinations(SINGLES, 2)]
    rng.shuffle(both)
    for two in both:
        rng.shuffle(two)
    return [
        Pair(number, two[0], two[1], rng.randint(0, 4), rng.randint(2, 8), rng.randint(0, 1), rng.randint(0, 4))
        for number, two in enumerate(both, start=1)
    ]


def _fault(rng: random.Random) -> Fault:
    (area,) = rng.choices(list(AREAS), [weight for _, _, weight in AREAS.values()])
    kinds, targets, _ = AREAS[area]
    return Fault(rng.choice(kinds), rng.choice(targets))


def _kill(stack: Stack, target: str) -> None:
    stack.process(target).kill()


def _stop(stack: Stack, target: str) -> None:
    stack.process(target).stop()


def _launch(stack: Stack, target: str) -> None:
    stack.process(target).launch()


def _freeze(stack: Stack, target: str) -> None:
    signalled(stack, target, signal.SIGSTOP)


def _thaw(stack: Stack, target: str) -> None:
    signalled(stack, target, signal.SIGCONT)


def _forbid_writing(stack: Stack, target: str) -> None:
    _configure(stack, target, b"ALTER SYSTEM SET default_transaction_read_only = on")


def _allow_writing(stack: Stack, target: str) -> None:
    _configure(stack, target, b"ALTER SYSTEM RESET default_transaction_read_only")


def _configure(stack: Stack, target: str, statement: bytes) -> None:
    url = stack.database_url(target.removeprefix("postgres:"), "postgres")
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(statement)
        db.execute("SELECT pg_reload_conf()")


def _members(stack: Stack, group: str) -> int:
    settings = client_settings(stack.kafka_bootstrap)
    try:
        admin = AdminClient(settings)
        return len(admin.describe_consumer_groups([group], request_timeout=5)[group].result(10).members)
    except (KafkaException, TimeoutError):
        return 0


def _sessions(stack: Stack, service: str) -> int:
    try:
        with psycopg.connect(stack.database_url(service, "postgres"), connect_timeout=2) as db:
            row = db.execute(SESSIONS).fetchone()
            return int(row[0]) if row else 0
    except psycopg.OperationalError:
        return 0


ACTS: dict[str, tuple[Act, Act]] = {
    "killed": (_kill, _launch),
    "stopped": (_stop, _launch),
    "frozen": (_freeze, _thaw),
    "read-only": (_forbid_writing, _allow_writing),
}
