"""Target of the relay: a record counts as delivered only when it is proven to lie in the log all before it went to.

A client connects again to whatever answers at an address; what a stranger acknowledged proves nothing. A claim holds
when, after its deliveries, our topics (by their ids, which no two clusters share) reach past the last offset of each
partition; a stranger's offsets would lie below what we knew of our log, or past its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec  # typed there, re-exported untyped

from quadrille.kafka.config import client_settings
from quadrille.kafka.topics import Place, cluster_of, unmet
from quadrille.relay.replication import Position

PARTITIONS = 12
LOOK_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 1.0
_REST_SECONDS = 0.1
_ASK_SECONDS = 3.0
_MISSING_LOOKS = 5
"""So many looks in a row must find an acknowledged record missing: a new leader tells its end a moment late."""


@dataclass(frozen=True, slots=True)
class Target:
    """A Kafka: its cluster's id, and the ids of the topics we write, by name."""

    cluster: str
    topics: Mapping[str, str]

    def anew(self, found: Target) -> tuple[str, ...]:
        """Return the topics that are others in what was found."""
        return tuple(sorted(name for name, known in self.topics.items() if found.topics.get(name, known) != known))

    def is_another(self, found: Target) -> bool:
        """Tell whether what was found is another Kafka, not ours with a topic made anew.

        One without any of our topics is another, whatever it calls itself: ids of clusters may be copied.
        """
        return found.cluster != self.cluster or bool(self.topics and len(self.anew(found)) == len(self.topics))


class Claim:
    """That all up to a position lies in our log; ``proven`` turns true when it was seen."""

    __slots__ = ("position", "proven", "records")

    def __init__(self, position: Position, records: int) -> None:
        self.position, self.records, self.proven = position, records, False


class Witness:
    """Looks at the topics, on a connection and a thread of its own: soon when asked to, else now and then."""

    def __init__(self, bootstrap: str, topics: Sequence[str], offsets: dict[Place, int], own: str) -> None:
        self._bootstrap, self._topics, self._own = bootstrap, topics, f"{own}."
        self._offsets = offsets
        """The last acknowledged offset of each partition; at first the last of all."""
        self._admin = self._client()
        self._checked: dict[Place, int] = {}
        self._claim: Claim | None = None
        self._asked = threading.Condition()
        self._looks = self._wanted = self._missing = self._calm_at_proof = 0
        self._closed = False
        self.losses: Callable[[], int] = lambda: 0
        self.calm = -1
        """How many connections had been lost when a look that was good began."""
        self.target: Target | None = None
        self.trouble: str | None = "Kafka has not answered yet"
        """Why the topics cannot be relied on; None once they were seen to be right."""
        self.away: str | None = None
        """That Kafka does not answer, while it does not."""
        self.elsewhere: str | None = None
        """That the topics are others than at first: whatever was acknowledged since the last proof is void."""
        self.lost: str | None = None
        """What was acknowledged and does not lie in our log."""
        threading.Thread(target=self._run, name="witness", daemon=True).start()

    def prove(self, claim: Claim) -> None:
        """Look as soon as can be whether a claim holds; it takes the place of an earlier one."""
        with self._asked:
            self._claim = claim
        self.look()

    def look(self) -> int:
        """Look as soon as can be; ``seen`` tells when that was."""
        with self._asked:
            self._wanted += 1
            self._asked.notify()
            return self._wanted

    def seen(self, look: int) -> bool:
        """Tell whether a look asked for has found the topics as they must be."""
        return self._looks >= look and self.target is not None and self.away is None and self.trouble is None

    def close(self) -> None:
        """Look no more; a look under way comes to its end by itself."""
        with self._asked:
            self._closed = True
            self._asked.notify()

    def _run(self) -> None:
        good = False
        while True:
            with self._asked:
                if self._looks >= self._wanted and not self._closed:
                    self._asked.wait(LOOK_SECONDS if good else _LOOK_AGAIN_SECONDS)
                if self._closed:
                    return
                looks = self._wanted
            good = self._look()
            self._looks = looks
            if not good:
                time.sleep(_REST_SECONDS)

    def _look(self) -> bool:
        """Judge the topics, and the claim if there is one; a broker that does not answer changes nothing."""
        claim, losses = self._claim, self.losses()
        acknowledged = dict(self._offsets)
        new = {place: at for place, at in acknowledged.items() if self._checked.get(place) != at}
        try:
            ends = self._ends(new) if self.target else {}
            found, self.trouble = self._described()  # after the ends: they were told by the same Kafka
            if self.target is None and self.trouble is None:
                self._offsets.update({place: end - 1 for place, end in self._ends(_places(self._topics)).items()})
                found, self.trouble = self._described()
        except (KafkaException, TimeoutError) as gone:
            self.away = f"Kafka at {self._bootstrap} {_words(gone)}"
            self._admin = self._client()  # what the old one knows of leaders may be another Kafka's
            return False
        self.away = None
        if found is None or self.trouble is not None or self.elsewhere is not None:
            return False
        if self.target is None:
            self.target, self._checked, self._calm_at_proof = found, dict(self._offsets), losses
        if self.target != found:
            self.elsewhere = f"Kafka at {self._bootstrap} is not the one it was, or a topic was made anew"
            return False
        self.calm = losses
        return self._judge(claim, acknowledged, new, ends)

    def _judge(
        self, claim: Claim | None, acknowledged: dict[Place, int], new: dict[Place, int], ends: dict[Place, int]
    ) -> bool:
        """Grant the claim if all that was acknowledged lies in our log."""
        missing = {place: at for place, at in new.items() if ends.get(place, at + 1) <= at}
        if missing:
            self._missing += 1
            (topic, partition), offset = next(iter(missing.items()))
            if self._missing >= _MISSING_LOOKS:
                self.lost = f"{topic} [{partition}] ends at {ends[topic, partition]}, acknowledged was {offset}"
            return False
        self._missing = 0
        # a topic that others write grows without us: there only an unbroken connection tells that it was ours
        shared = next((name for name, _ in new if not name.startswith(self._own)), None)
        if shared is not None and self.calm != self._calm_at_proof:
            self.lost = f"the connection was lost while records were on their way to {shared}"
            return False
        self._checked.update(acknowledged)
        self._calm_at_proof = self.calm
        if claim is None:
            return True
        claim.proven = True
        if self._claim is claim:
            self._claim = None
        return True

    def _client(self) -> AdminClient:
        return AdminClient({**client_settings(self._bootstrap), "log_level": 0})

    def _described(self) -> tuple[Target | None, str | None]:
        """Return the topics' ids, or what is wrong with them."""
        ids, missing, wrong = dict[str, str](), list[str](), list[str]()
        asked = self._admin.describe_topics(TopicCollection(list(self._topics)), request_timeout=_ASK_SECONDS)
        for name, answer in asked.items():
            try:
                found = answer.result(_ASK_SECONDS + 1)
            except KafkaException as refused:
                if refused.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                    raise
                missing.append(f"topic {name} does not exist")
                continue
            if len(found.partitions) != PARTITIONS:
                wrong.append(f"topic {name} has {len(found.partitions)} partitions, wanted {PARTITIONS}")
            ids[name] = str(found.topic_id)
        if missing or wrong:
            return None, "; ".join(missing + wrong)
        if self.target is not None and self.target.topics == ids:
            return self.target, None
        if self.target is None and (lossy := unmet(self._admin, self._topics, "relay", _ASK_SECONDS)) is not None:
            return None, lossy
        return Target(cluster_of(self._admin, _ASK_SECONDS), ids), None

    def _ends(self, places: Mapping[Place, object] | Sequence[Place]) -> dict[Place, int]:
        """Return where partitions end."""
        if not places:
            return {}
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # confluent's
        asked = self._admin.list_offsets(
            {TopicPartition(*place): latest for place in places}, request_timeout=_ASK_SECONDS
        )
        return {(one.topic, one.partition): f.result(_ASK_SECONDS + 1).offset for one, f in asked.items()}


def _places(topics: Sequence[str]) -> list[Place]:
    return [(name, number) for name in topics for number in range(PARTITIONS)]


def _words(gone: BaseException) -> str:
    first = gone.args[0] if gone.args else None
    if isinstance(first, KafkaError) and first.code() >= 0:
        return f"answers: {first.str()}"
    return f"does not answer: {first.str() if isinstance(first, KafkaError) else type(gone).__name__}"
