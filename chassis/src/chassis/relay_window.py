"""What is on its way to Kafka; the guarantee: a position counts only when every record before it has been delivered."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the WAL between transactions, and the commit time (microseconds since 2000) all before it have."""

    lsn: int
    committed_at: int


class DeliveryFailed(Exception):  # noqa: N818 - the name says what is the case
    """Kafka refused a record for good: the producer is discarded, the stream starts at the last contiguous position."""


class Transaction:
    """One committed transaction: counted by two threads, each of which writes a counter of its own."""

    __slots__ = ("_window", "delivered", "end", "handed")

    def __init__(self, window: Window) -> None:
        self._window = window
        self.handed = 0
        self.delivered = 0
        self.end: Position | None = None

    @property
    def done(self) -> bool:
        """Whether all of its records have been handed on and delivered."""
        return self.end is not None and self.delivered == self.handed

    def reported(self, error: KafkaError | None, _message: Message) -> None:
        """Take a delivery report, on the thread that serves them; an undelivered record is never produced again."""
        if error is not None:
            self._window.failure = self._window.failure or error
        else:
            self.delivered += 1


class Window:
    """The transactions between the last acknowledged position and what was handed on last, in commit order."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._line: deque[Transaction] = deque()
        self.failure: KafkaError | None = None
        """The first delivery that failed: nothing after it may count, the stream starts again."""

    def begin(self) -> Transaction:
        """Open the next transaction of the stream."""
        transaction = Transaction(self)
        self._line.append(transaction)
        return transaction

    def settle(self) -> tuple[Position, int]:
        """Return the last contiguous position, and how many records became part of it now."""
        records = 0
        while self._line and self._line[0].done:
            ended = self._line.popleft()
            self._position = ended.end or self._position
            records += ended.handed
        return self._position, records

    def idle_until(self, position: Position) -> None:
        """Move on over WAL that holds nothing for us; only with nothing in flight, and never backwards."""
        if self.idle and position > self._position:
            self._position = position

    def check(self) -> None:
        """Raise DeliveryFailed if a delivery did."""
        if self.failure is not None:
            raise DeliveryFailed(self.failure.str())

    @property
    def idle(self) -> bool:
        """Whether nothing is open or on its way."""
        return not self._line

    @property
    def in_flight(self) -> int:
        """Records handed on and not yet reported."""
        return sum(t.handed - t.delivered for t in self._line)

    @property
    def unsettled(self) -> int:
        """Records handed on past the position: handed on again if the stream starts there."""
        return sum(t.handed for t in self._line)
