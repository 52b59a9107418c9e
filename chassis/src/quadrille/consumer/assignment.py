"""Assignment: the partitions a worker has, and its positions on them; whatever lay between, no record is skipped.

The database's positions are the truth. What was read beyond them is only remembered until the batch is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import Consumer, TopicPartition

from quadrille.kafka.topics import Place, StoppedError, Topics
from quadrille.processing.envelope import Envelope
from quadrille.service import Tx

READ_POSITIONS = "SELECT topic, partition, next_offset FROM position WHERE topic = ANY(%b)"
ADD_POSITION = "INSERT INTO position VALUES (%b, %b, %b) ON CONFLICT DO NOTHING"


class Assignment:
    """The partitions assigned: ``next`` as the database knows it, ``read`` one past the last record looked at.

    ``others`` are ends that other workers of the service have still to reach: a timer is nobody's partition.
    Changed by the consumer loop's thread alone; ``caught_up`` may be asked by any.
    """

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = list(topics)
        self.next: dict[Place, int] = {}
        self.read: dict[Place, int] = {}
        self.ends: dict[Place, int] = {}  # as seen at assignment, or after an outage
        self.others: dict[Place, int] = {}
        self.caught_up = False

    def positions(self, tx: Tx) -> dict[Place, int]:
        """Return the database's positions of every topic consumed."""
        return {(topic, partition): at for topic, partition, at in tx.execute(READ_POSITIONS, [self.topics])}

    def place(self, tx: Tx, topics: Topics, partitions: Sequence[TopicPartition]) -> dict[Place, int]:
        """Set where each partition is to be read from, a new one from its beginning; return their ends.

        Raises StoppedError if a topic is not what it was, or a position is not within its partition.
        """
        topics.check(tx, sorted({one.topic for one in partitions}))
        known, mine = self.positions(tx), [(one.topic, one.partition) for one in partitions]
        bounds = topics.watermarks({*known, *mine})
        self._leave_to_others({place: bounds[place][1] for place in known.keys() - self.next.keys() - {*mine}}, known)
        for place, one in zip(mine, partitions, strict=True):
            low, high = bounds[place]
            one.offset = _within(tx, place, known, (low, high))
        return {place: bounds[place][1] for place in mine}

    def take(self, partitions: Iterable[TopicPartition], ends: dict[Place, int]) -> None:
        """Take over assigned partitions, at the offsets ``place`` has set."""
        for one in partitions:
            place = one.topic, one.partition
            self.next[place] = self.read[place] = one.offset
            self.ends[place] = ends[place]
        self.caught_up = False

    def leave(self, partitions: Iterable[TopicPartition]) -> None:
        """Let revoked partitions go."""
        gone = [place for one in partitions if (place := (one.topic, one.partition)) in self.next]
        self._leave_to_others({**self.others, **{place: self.ends[place] for place in gone}}, self.next)
        for place in gone:
            for table in (self.next, self.read, self.ends):
                del table[place]
        self.caught_up = False

    def seek(self, tx: Tx, topics: Topics, consumer: Consumer) -> None:
        """Go back to the database's positions; what was published meanwhile is to be read before a timer fires.

        Raises StoppedError as ``place`` does.
        """
        self.caught_up = False
        topics.check(tx, self.topics)
        known = self.positions(tx)
        bounds = topics.watermarks({*known, *self.next})
        self._leave_to_others({place: bounds[place][1] for place in known.keys() - self.next.keys()}, known)
        for place in self.next:
            at = _within(tx, place, known, bounds[place])
            consumer.seek(TopicPartition(*place, at))
            self.next[place] = self.read[place] = at
            self.ends[place] = bounds[place][1]

    def check_bounds(self, tx: Tx, topics: Topics) -> None:
        """Raise StoppedError if a topic is not what it was, or a position is not within its partition."""
        topics.check(tx, self.topics)
        known, bounds = self.positions(tx), topics.watermarks(self.next)
        for place in self.next:
            _within(tx, place, known, bounds[place])

    def committed(self, inputs: Iterable[Envelope]) -> None:
        """Note the steps of a batch that was committed."""
        for origin in (i.origin for i in inputs if i.origin):
            self.next[origin.topic, origin.partition] = origin.next

    def unheard(self) -> list[tuple[str, int, int, int]]:
        """Return the steps over what nobody here consumes, behind the last record that was handled."""
        read = sorted(self.read.items())
        return [(*place, self.next[place], end) for place, end in read if end > self.next[place]]

    def stepped(self, steps: Iterable[tuple[str, int, int, int]]) -> None:
        """Note steps the database has taken."""
        self.next.update({(topic, partition): upto for topic, partition, _, upto in steps})

    def look_at_others(self, tx: Tx) -> None:
        """Look what other workers have handled meanwhile."""
        self._leave_to_others(self.others, self.positions(tx))

    def look(self) -> None:
        """Look whether all is handled up to the ends; called when nothing read waits for its commit."""
        mine = bool(self.ends) and all(self.read[place] >= end for place, end in self.ends.items())
        self.caught_up = mine and not self.others

    def _leave_to_others(self, ends: Mapping[Place, int], known: Mapping[Place, int]) -> None:
        self.others = {place: end for place, end in ends.items() if known.get(place, 0) < end}


def accept_topics(tx: Tx, topics: Topics, names: Iterable[str]) -> dict[str, object]:
    """Take topics as the broker has them now, inside the caller's transaction; return what changed, of which.

    One that is another than the one first read is read from its beginning; a position outside its partition goes to
    the first record that is left. What was handled already takes no effect a second time.
    """
    changes = {name: _accept(tx, topics, name) for name in names}
    return {name: change for name, change in changes.items() if change}


def _accept(tx: Tx, topics: Topics, name: str) -> dict[str, object]:
    if (anew := topics.changed(tx, name)) is not None:
        gone = tx.execute("DELETE FROM position WHERE topic = %b", [name]).rowcount
        tx.execute("DELETE FROM topic WHERE name = %b", [name])
        return {"was": anew, "positions": gone}
    known = {(topic, partition): at for topic, partition, at in tx.execute(READ_POSITIONS, [[name]])}
    bounds = topics.watermarks(known)
    out = {place: at for place, at in known.items() if not bounds[place][0] <= at <= bounds[place][1]}
    for place in out:
        tx.execute("DELETE FROM position WHERE topic = %b AND partition = %b", [*place])
    return {"was": "out of bounds", "partitions": {str(n): at for (_, n), at in sorted(out.items())}} if out else {}


def _within(tx: Tx, place: Place, known: dict[Place, int], bounds: tuple[int, int]) -> int:
    """Return a partition's position, its beginning if it has none yet; raises StoppedError if it is out of bounds."""
    (topic, partition), (low, high) = place, bounds
    if place not in known:
        tx.execute(ADD_POSITION, [topic, partition, low])
    at = known.setdefault(place, low)
    if at < low:
        message = (
            f"{topic}[{partition}] holds {low} to {high}, the position is {at}: retention overtook this worker, "
            f"{low - at} records were deleted unread; nothing is skipped silently, see docs/troubleshooting.md"
        )
        raise StoppedError(message)
    if at > high:
        message = (
            f"{topic}[{partition}] holds {low} to {high}, the position is {at}: the broker has lost records that this "
            f"worker has handled; see docs/troubleshooting.md"
        )
        raise StoppedError(message)
    return at
