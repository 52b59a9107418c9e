"""The world outside as it keeps its own books: the processor's ledger, the mailbox; and what clients wrote down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3

from quadrille_auditor.evidence import Asked, Mail, Money
from quadrille_auditor.sources import UnreadableError

PAGE = 500
OUTCOMES = ("accepted", "refused", "unknown", "seen")
OK = 200
LOG_FILES = "*.log"


class Outside:
    """The processor and the mailbox, over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = urllib3.PoolManager(timeout=30.0, retries=urllib3.Retry(3, redirect=False))

    def ledger(self) -> tuple[Money, ...]:
        """Read every line of the processor's ledger; raises UnreadableError."""
        lines = map(json.loads, self._ask("/ledger", "ledger").splitlines())
        return tuple(
            Money(one["key"], one["order_id"], one["kind"], one["amount_minor"], one["currency"]) for one in lines
        )

    def mails(self) -> tuple[Mail, ...]:
        """Read every mail, oldest first; raises UnreadableError."""
        return tuple(sorted(self._mails()))

    def _mails(self) -> Iterator[Mail]:
        before = 0
        while True:
            page = json.loads(self._ask(f"/mail?limit={PAGE}&before={before}", "mailbox"))
            for mail in page["mails"]:
                yield Mail(mail["number"], mail["order_id"], mail["message_id"])
            if not (before := page["before"] or 0):
                return

    def _ask(self, path: str, source: str) -> bytes:
        try:
            answer = self._http.request("GET", self._url + path, headers={"Accept": "application/json"})
        except urllib3.exceptions.HTTPError as failed:
            raise UnreadableError(source=source, why=type(failed).__name__) from failed
        if answer.status != OK:
            raise UnreadableError(source=source, why=f"it answers {answer.status}")
        return answer.data


def clients(path: Path) -> tuple[Asked, ...]:
    """Read a clients' log; raises UnreadableError for a line that is none, naming it."""
    try:
        with path.open(encoding="utf-8") as lines:
            return tuple(_asked(path, number, line) for number, line in enumerate(lines, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as failed:
        raise UnreadableError(source=f"clients' log {path}", why=str(failed)) from failed


def _asked(path: Path, number: int, line: str) -> Asked:
    try:
        told: dict[str, Any] = json.loads(line)
        asked = Asked(
            str(told.get("client", "")), str(told.get("key", "")), str(told.get("order_id") or ""),
            str(told["outcome"]), str(told.get("status", "")), int(told.get("version", 0)),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as odd:
        raise UnreadableError(source=f"clients' log {path}", why=f"line {number}: {type(odd).__name__} {odd}") from odd
    if asked.outcome not in OUTCOMES:
        raise UnreadableError(
            source=f"clients' log {path}", why=f"line {number}: outcome is one of {', '.join(OUTCOMES)}"
        )
    return asked


def logs(folder: Path) -> tuple[tuple[str, str], ...]:
    """Read the processes' logs, as (file, whole text)."""
    try:
        files = sorted(folder.glob(LOG_FILES))
        return tuple((file.name, file.read_text("utf-8", "replace")) for file in files)
    except OSError as failed:
        raise UnreadableError(source=f"logs in {folder}", why=str(failed)) from failed
