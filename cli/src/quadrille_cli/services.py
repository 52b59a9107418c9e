"""The services of the whole, in the order of their ports: the only place in the repository where they are listed."""

from __future__ import annotations

SERVICES = ("order", "inventory", "payment", "notification")
