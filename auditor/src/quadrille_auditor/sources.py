"""Sources of an audit: where everything lies, and what is raised where it cannot be read or does not stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


class UnreadableError(Exception):
    """A source that was to be read could not be: which, and why."""

    def __init__(self, *, source: str, why: str) -> None:
        super().__init__(f"{source}: {why}")
        self.source, self.why = source, why


class StillMovingError(Exception):
    """The whole did not come to a common moment in the time there was: what had not caught up, a line each."""

    def __init__(self, behind: tuple[str, ...]) -> None:
        super().__init__("; ".join(behind))
        self.behind = behind


@dataclass(frozen=True, slots=True)
class Sources:
    """Where an audit reads, and how long it waits for what is under way.

    Args:
        databases: by service, a role's URL that may read its tables.
        bootstrap: the brokers.
        registry: base of the registry's Confluent-compatible interface.
        sandbox: the processor's and the mailbox's HTTP address; empty where there is none.
        clients: the clients' log, lines of JSON (docs/audit.md, "What clients saw"); None where none was kept.
        logs: a folder of the processes' logs, looked through for personal data.
        healed_at: when the last fault ended, for who knows it.
        extra_mails: how many senders were killed or frozen: so many mails may be there twice.
        wait: seconds for relays and consumers to come to the moment at which reading began.
    """

    databases: Mapping[str, str]
    bootstrap: str
    registry: str
    sandbox: str = ""
    clients: Path | None = None
    logs: Path | None = None
    healed_at: datetime | None = None
    extra_mails: int = 0
    wait: float = 60.0
