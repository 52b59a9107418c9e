"""Orders from a file: read one by one, placed side by side, each under a key of its own, told by the line it stands on.

The keys are made of one name and the line: whoever asks again with the same name and file places nothing twice. What
the API refuses is that order's; when the API takes no orders at all, the rest is not asked for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from quadrille_cli.client import Client, NoAnswerError, Reply

AT_ONCE, IN_HAND = 8, 256
TRIES, WAIT_MOST = 5, 5.0
CREATED = (200, 201, 202)
SERVER_ERRORS, TOO_MANY = 500, 429
PLACED, REFUSED, UNASKED = "placed", "refused", "not asked"
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FileOrder:
    """One order of a file: where it stands, and its document, or what is wrong with it."""

    line: int
    body: Document | None
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of one: placed, refused, or not asked for; ``again`` tells that it had been placed before."""

    line: int
    state: str
    order_id: str = ""
    why: str = ""
    again: bool = False

    def document(self) -> dict[str, object]:
        """Return it as a program reads it."""
        told: dict[str, object] = {"line": self.line, "state": self.state}
        if self.order_id:
            return {**told, "order_id": self.order_id, "again": self.again}
        return {**told, "why": self.why}


def read(file: IO[bytes], usual: Document) -> Iterator[FileOrder]:
    """Yield the orders of a file: a JSON array, or a document a line; a member that is missing is the ``usual`` one."""
    head = b""
    while not head and (line := file.readline()):
        head = line.strip()
        if head[:1] == b"[":
            yield from _array(head + b"\n" + file.read(), usual)
            return
        if head:
            file.seek(0)
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _order(number, line, usual)


def _array(text: bytes, usual: Document) -> Iterator[FileOrder]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        yield FileOrder(1, None, f"not a JSON array: {_first_line(wrong)}")
        return
    yield from (_filled(number, one, usual) for number, one in enumerate(found, start=1))


def _order(number: int, line: bytes, usual: Document) -> FileOrder:
    try:
        return _filled(number, json.loads(line), usual)
    except (ValueError, RecursionError) as wrong:
        return FileOrder(number, None, f"not JSON: {_first_line(wrong)}")


def _filled(number: int, found: object, usual: Document) -> FileOrder:
    if not isinstance(found, dict):
        return FileOrder(number, None, 'an order is an object, such as {"lines": [...]}')
    return FileOrder(number, {**usual, **found})


def _first_line(wrong: BaseException) -> str:
    return (str(wrong) or type(wrong).__name__).splitlines()[0]


class OrderPlacer:
    """Places orders at one API, several at a time; ``stopped`` is why it has ended before the last."""

    def __init__(self, url: str, name: str, client: Callable[[str], Client] = Client) -> None:
        self.stopped = ""
        self._url, self._name, self._client = url, name, client
        self._own = threading.local()
        self._over = threading.Event()

    def place(self, orders: Iterator[FileOrder]) -> Iterator[Placed]:
        """Yield what became of each, in their order; few are in hand at any time, however many there are."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                while some := list(islice(orders, IN_HAND)):
                    yield from pool.map(self._place, some)
            finally:
                self._over.set()

    def _place(self, one: FileOrder) -> Placed:
        if self._over.is_set():
            return Placed(one.line, UNASKED, why=self.stopped)
        if one.body is None:
            return Placed(one.line, REFUSED, why=one.wrong)
        for _ in range(TRIES):
            try:
                reply = self._mine().ask(
                    "POST", "/v1/orders", one.body, {"Idempotency-Key": f"{self._name}-{one.line}"}
                )
            except NoAnswerError as away:
                why, wait = f"nothing answers at {self._url}: {away}", 0.5
            else:
                if reply.status in CREATED:
                    again = reply.headers.get("idempotent-replayed") == "true"
                    return Placed(one.line, PLACED, str(reply.body["order_id"]), again=again)
                why, wait = _words(reply), _seconds(reply)
                if not _for_a_while(reply):
                    return Placed(one.line, REFUSED, why=why)
                if _problem(reply).get("cause") == "PAUSED":  # until a person resumes it
                    break
            if self._over.wait(wait):
                break
        self.stopped = self.stopped or why
        self._over.set()
        return Placed(one.line, UNASKED, why=self.stopped)

    def _mine(self) -> Client:
        """Return this thread's client: one connection each."""
        if not hasattr(self._own, "client"):
            self._own.client = self._client(self._url)
        found: Client = self._own.client
        return found


def _for_a_while(reply: Reply) -> bool:
    """Tell whether it is refused for now, not for what it is."""
    return reply.status == TOO_MANY or reply.status >= SERVER_ERRORS or _problem(reply).get("retryable") is True


def _problem(reply: Reply) -> Document:
    try:
        found = reply.body
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return min(WAIT_MOST, float(text)) if text.isdecimal() else 0.5


def _words(reply: Reply) -> str:
    """Return a refusal in a line: status, kind, what is wrong where."""
    problem = _problem(reply)
    slug = str(problem.get("type", "")).rpartition("/")[2]
    errors = "; ".join(f"{one.get('pointer') or 'body'}: {one.get('message')}" for one in problem.get("errors", ())[:3])
    cause = f" ({problem['cause']})" if problem.get("cause") else ""
    return f"{reply.status} {slug}{cause}: {errors or problem.get('detail') or 'no words'}"


class Pace:
    """How many were placed and refused, and how fast."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys((PLACED, REFUSED, UNASKED), 0)
        self.again = 0
        self._began = time.monotonic()

    def count(self, one: Placed) -> None:
        """Count one."""
        self.counts[one.state] += 1
        self.again += one.again

    def words(self) -> str:
        """Return it in a line."""
        seconds = max(time.monotonic() - self._began, 0.001)
        more = f" ({self.again} of them before)" if self.again else ""
        found = [f"{self.counts[PLACED]:,} placed{more}"]
        found += [f"{count:,} {name}" for name in (REFUSED, UNASKED) if (count := self.counts[name])]
        return f"{', '.join(found)}, {self.counts[PLACED] / seconds:.0f}/s"
