"""Requirement: a named check of what a service stands on, with what it wants and the way to mend it.

Declared once, beside what it looks at: a process refuses to start on those that it can judge itself
(``quadrille.ops.start``), `quadrille doctor` holds a whole stack against all of them and its own. Here are the type,
and what is asked of the process itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple, TypeAlias, TypeVar

ROLES = frozenset({"api", "worker", "relay", "all"})


class Seen(NamedTuple):
    """What was read, and whether that is good."""

    read: str
    good: bool


LooksAt: TypeAlias = Callable[[Any], Seen]
F = TypeVar("F", bound=Callable[..., Seen])


@dataclass(frozen=True, slots=True)
class Requirement:
    """What must be so: how it is looked at, what is wanted, how to mend it.

    ``fatal`` where nothing can be promised without: an event may be lost, doubled or stuck. ``roles`` are those of a
    service that look for themselves, and refuse to work without it.
    """

    name: str
    wants: str
    fix: str
    look: LooksAt
    fatal: bool = False
    roles: frozenset[str] = frozenset()

    def refusal(self, where: str, read: str) -> str:
        """Return why a process refuses: what it found and where, what it wants, the way out."""
        return f"found {read} ({self.name}, {where}); wanted {self.wants}; fix: {self.fix}"


Requirements: TypeAlias = dict[str, Requirement]
"""By name; the part before the point says what they look at."""


def requires(into: Requirements, name: str, *, wants: str, fix: str, roles: frozenset[str]) -> Callable[[F], F]:
    """Declare the function below as what looks, for roles that do not work without."""

    def declare(look: F) -> F:
        into[name] = Requirement(name, wants, fix, look, fatal=True, roles=roles)
        return look

    return declare


def named(*good: str) -> Callable[[str], bool]:
    """Return what holds a setting against the texts that are good."""
    return lambda value: value in good


def between(least: int, most: int = 2**62) -> Callable[[str], bool]:
    """Return what holds a setting against the least and the greatest number that are good."""
    return lambda value: value.lstrip("-").isdecimal() and least <= int(value) <= most


# the process itself -------------------------------------------------------------------------------------------------

OF_PROCESS: Requirements = {}


@dataclass(frozen=True, slots=True)
class ThisProcess:
    """What a process is made of; a test puts other packages and another clock in."""

    versions: Callable[[str], str] = version
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ops: Mapping[str, str] = field(default_factory=dict)
    """Where ops ports that want no key listen, by whose they are."""
    commands: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


@requires(
    OF_PROCESS, "host.clock", wants="a time after this release and before 2100",
    fix="set the clock; have it follow NTP", roles=ROLES,
)  # fmt: skip
def clock(process: ThisProcess) -> Seen:
    """Ids carry the time in 48 bits, and a day that was never lived has no place."""
    now = process.now()
    lived = datetime(2025, 1, 1, tzinfo=UTC) < now < datetime(2100, 1, 1, tzinfo=UTC)
    return Seen(now.isoformat(timespec="seconds"), lived)


@requires(
    OF_PROCESS, "access.ops-port-loopback", wants="loopback alone, where no key is wanted",
    fix="QUADRILLE_OPS_BIND=127.0.0.1:PORT, or QUADRILLE_AUTH=keys", roles=ROLES,
)  # fmt: skip
def ops_port_loopback(process: ThisProcess) -> Seen:
    """Whoever reaches an ops port is the operator."""
    from quadrille.settings import Bind  # noqa: PLC0415 - what the command line's start can spare

    wide = [f"{name} on {bind}" for name, bind in process.ops.items() if not Bind(bind).loopback]
    return Seen(", ".join(wide) or "loopback", not wide)


@requires(
    OF_PROCESS, "access.secrets-not-in-argv", wants="no secret in a command line",
    fix="give it by environment, or NAME_FILE", roles=ROLES,
)  # fmt: skip
def secrets_not_in_argv(process: ThisProcess) -> Seen:
    """Everybody on the machine reads a command line."""
    found = sum(secret in command for command in process.commands for secret in process.secrets if secret)
    return Seen(f"{found} command lines with one" if found else "none", not found)


PACKAGES: Mapping[str, tuple[tuple[int, ...], str]] = {
    "confluent-kafka": ((2, 16), "a producer without gaps"),
    "psycopg": ((3, 2), "pipelines"),
    "fastavro": ((1, 9), "strict writing"),
    "pydantic": ((2, 0), "settings and bodies"),
}


def _of_package(package: str, oldest: tuple[int, ...]) -> Callable[[ThisProcess], Seen]:
    def look(process: ThisProcess) -> Seen:
        found = process.versions(package)
        return Seen(f"{package} {found}", numbers(found) >= oldest)

    return look


def numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())


for _package, (_oldest, _why) in PACKAGES.items():
    requires(
        OF_PROCESS, f"client.{_package}", wants=f"{'.'.join(map(str, _oldest))} or newer: {_why}", fix="make setup",
        roles=ROLES,
    )(_of_package(_package, _oldest))  # fmt: skip
