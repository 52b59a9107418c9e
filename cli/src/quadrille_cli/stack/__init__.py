"""The local stack without Docker: real Kafka, a real registry, real Postgres clusters, and our services on them."""

from __future__ import annotations

from quadrille_cli.stack.errors import CannotRun, PartFailed
from quadrille_cli.stack.processes import Process
from quadrille_cli.stack.stack import DATABASES, EVERYTHING, INFRASTRUCTURE, PARTS, Stack

__all__ = ["DATABASES", "EVERYTHING", "INFRASTRUCTURE", "PARTS", "CannotRun", "PartFailed", "Process", "Stack"]
