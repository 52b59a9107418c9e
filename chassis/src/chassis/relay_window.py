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


class Unproven(DeliveryFailed):
    """What was acknowledged is not proven to lie in our log: it is sent again."""


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

    def reported(self, error: KafkaError | None, message: Message) -> None:
        """Take a delivery report, on the thread that serves them; an undelivered record is never produced again.

        A record that does not lie behind the one before it is not in our log, whoever has acknowledged it.
        """
        if error is not None:
            self._window.failure = self._window.failure or error
            return
        offsets, place, offset = self._window.offsets, (message.topic(), message.partition()), message.offset()
        if offset is None or offset <= offsets.get(place, -1):  # type: ignore[arg-type] # a delivered one has a place
            self._window.astray = f"{place[0]} [{place[1]}] acknowledged {offset} after {offsets.get(place, -1)}"  # type: ignore[arg-type]
            return
        offsets[place] = offset  # type: ignore[index]
        self.delivered += 1


class Window:
    """The transactions between the last acknowledged position and what was handed on last, in commit order."""

    def __init__(self, position: Position, offsets: dict[tuple[str, int], int] | None = None) -> None:
        self._position = position
        self._line: deque[Transaction] = deque()
        self.offsets = {} if offsets is None else offsets
        """The last acknowledged offset of each partition, this producer's."""
        self.astray: str | None = None
        """An acknowledgement that cannot be our log's."""
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
        if self.astray is not None:
            raise Unproven(self.astray)

    @property
    def sound(self) -> bool:
        """Whether no delivery has failed."""
        return self.failure is None and self.astray is None

    @property
    def front(self) -> int:
        """How many records of the first transaction past the position were delivered."""
        return self._line[0].delivered if self._line else 0

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
