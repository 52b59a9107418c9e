"""Limit of open files: a process takes all that its limit allows, and each of its ports has a share and no more."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import NamedTuple

UNLIMITED = 1 << 20  # taken for a limit where there is none
API_MOST, OPS_MOST = 4096, 64
# Beside its connections a process keeps files for its database, its broker, its logs and each running check.
ROOM = 192


class Shares(NamedTuple):
    """How many connections each port of a process may hold open."""

    api: int
    ops: int


def take_all() -> int:
    """Raise this process's limit of open files as far as it may itself; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems name a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def limit() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def shares(most: int | None = None) -> Shares:
    """Return each port's share of ``most`` files, by default of this process's limit."""
    most = limit() if most is None else most
    ops = max(4, min(OPS_MOST, most // 8))
    return Shares(max(8, min(API_MOST, most - ops - min(ROOM, most // 4))), ops)
