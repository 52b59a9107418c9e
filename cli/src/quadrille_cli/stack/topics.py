"""The topics of the whole, declared once: made by the stack or `quadrille topics apply`, never by a service.

Events are kept for ever, unless the setting EVENTS_RETENTION says for how long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quadrille_cli.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka.admin._config import ConfigResource

PARTITIONS = 12
WEEK = str(7 * 24 * 3600 * 1000)
FOR_EVER = "-1"
SETTING = "EVENTS_RETENTION"
"""The setting of a stack, or of `quadrille topics`: how long events are kept."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as it should be."""

    name: str
    retention_ms: str = WEEK
    partitions: int = PARTITIONS

    @property
    def config(self) -> dict[str, str]:
        """What is set on the topic itself."""
        return {"cleanup.policy": "delete", "retention.ms": self.retention_ms}


def declared(events: str = FOR_EVER) -> tuple[Wanted, ...]:
    """Return the topics, events kept for so many milliseconds."""
    return (
        *(Wanted(f"{service}.events", events) for service in SERVICES),
        Wanted("saga.audit", FOR_EVER),
        Wanted("ops.events", events),
        *(Wanted(f"{service}.dead-letters") for service in SERVICES),
    )


TOPICS = declared()


def kept(text: str) -> str:
    """Return in milliseconds what the setting says; raises ValueError, saying what is wanted.

    No shorter than the week that an inbox tells: a worker that was away for less finds everything.
    """
    from quadrille.settings import parse_duration  # noqa: PLC0415 - 0.1 s the command line's start can spare

    if text in ("", "forever"):
        return FOR_EVER
    try:
        milliseconds = int(parse_duration(text).total_seconds() * 1000)
    except ValueError:
        milliseconds = 0
    if milliseconds < int(WEEK):
        message = f"found {text!r}; wanted forever, or 7d or more: no shorter than an inbox tells duplicates"
        raise ValueError(message)
    return str(milliseconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """What stands between the topics wanted and those there."""

    create: tuple[Wanted, ...] = ()
    configure: tuple[Wanted, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Differences nothing here mends: a partition count never changes in place."""


def plan(bootstrap: str, events: str = FOR_EVER) -> Plan:
    """Compare the declared topics, events kept for so many milliseconds, with the broker's."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - 0.1 s the command line's start can spare
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415 - typed here, re-exported untyped
    from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    there, wanted = admin.list_topics(timeout=10).topics, declared(events)
    found = [t for t in wanted if t.name in there]
    resources = [ConfigResource(ResourceType.TOPIC, t.name) for t in found]
    answers = admin.describe_configs(resources) if resources else {}
    real = {resource.name: answer.result(timeout=10) for resource, answer in answers.items()}
    return Plan(
        create=tuple(t for t in wanted if t.name not in there),
        configure=tuple(t for t in found if any(real[t.name][k].value != v for k, v in t.config.items())),
        refused={
            t.name: f"has {len(there[t.name].partitions)} partitions, wanted {t.partitions}; it never changes in place"
            for t in found
            if len(there[t.name].partitions) != t.partitions
        },
    )


def apply(bootstrap: str, wanted: Plan | None = None, events: str = FOR_EVER) -> Plan:
    """Make and configure what is missing; what was done is returned, what is refused is left alone."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415
    from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415

    todo = plan(bootstrap, events) if wanted is None else wanted
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    new = [NewTopic(t.name, num_partitions=t.partitions, replication_factor=-1, config=t.config) for t in todo.create]
    made = admin.create_topics(new) if new else {}
    changed = admin.incremental_alter_configs([_alteration(t) for t in todo.configure]) if todo.configure else {}
    for answer in (*made.values(), *changed.values()):
        answer.result(timeout=30)
    return todo


def retention(bootstrap: str, names: Sequence[str]) -> dict[str, int]:
    """Return for how many milliseconds each of these topics keeps its records, -1 for ever."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415
    from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    answers = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    return {one.name: int(answer.result(timeout=10)["retention.ms"].value) for one, answer in answers.items()}


def _alteration(topic: Wanted) -> ConfigResource:
    from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource  # noqa: PLC0415
    from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415

    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in topic.config.items()
    ]
    return ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
