"""The local stack without Docker: real Kafka, a real registry, real Postgres clusters, and our services on them."""

from quadrille.stack.core import Stack
from quadrille.stack.parts import DATABASES, EVERYTHING, INFRASTRUCTURE, PARTS
from quadrille.stack.problems import CannotRun, PartFailed
from quadrille.stack.processes import Process

__all__ = ["DATABASES", "EVERYTHING", "INFRASTRUCTURE", "PARTS", "CannotRun", "PartFailed", "Process", "Stack"]
