"""Readiness: why a role lacks what it needs, said without a secret."""

from __future__ import annotations

import psycopg
from confluent_kafka import KafkaError, KafkaException

from quadrille.messages import Infrastructure


class NotReadyError(Exception):
    """A role lacks what it needs; the text says what, without a secret, and is shown to whoever asks."""


def reason(trouble: BaseException) -> str:
    """Return why, for people: the text of what is ours to tell, else no more than the class of the error."""
    if isinstance(trouble, NotReadyError | Infrastructure):
        return str(trouble) or type(trouble).__name__
    if isinstance(trouble, KafkaException) and trouble.args and isinstance(trouble.args[0], KafkaError):
        return f"Kafka: {trouble.args[0].name()}"
    if isinstance(trouble, psycopg.Error):
        return f"the database: {type(trouble).__name__}" + (f" ({trouble.sqlstate})" if trouble.sqlstate else "")
    if isinstance(trouble, TimeoutError):
        return "no answer in time"
    if isinstance(trouble, OSError) and trouble.strerror:
        return trouble.strerror
    return type(trouble).__name__
