"""Completion: what a shell puts in for an order, a group, a topic, a service, a process; nothing where none is known.

It is asked while somebody types: whatever is away, slow or refuses is passed over in silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import typer

from quadrille_cli.services import PROGRAMS, SERVICES, worker_ops
from quadrille_cli.terminal import short

VARIABLE = "_QUADRILLE_COMPLETE"
"""Set by a shell that asks for completions; the line is in ``COMP_WORDS`` (bash) or ``_TYPER_COMPLETE_ARGS``."""
SECONDS, SHOWN = 0.8, 50
Found: TypeAlias = Sequence[tuple[str, str]]


def first_word() -> str:
    """Return the command whose line a shell asks about, empty while that is what is being typed."""
    if VARIABLE not in os.environ:
        return ""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words, typing = line.split(), not line.endswith((" ", "\n"))
    return words[1] if len(words) > (2 if typing and "COMP_WORDS" not in os.environ else 1) else ""


def orders(ctx: typer.Context, incomplete: str) -> Found:
    """Return the newest orders: their ids, else their ends as tables show them."""
    page = _asked(ctx, "order", f"/v1/orders?limit={SHOWN}")
    told = [(str(one["order_id"]), f"{one['status']} {one['reason'] or ''}".strip()) for one in page.get("orders", ())]
    whole = [one for one in told if one[0].startswith(incomplete)]
    return whole or [(short(name), words) for name, words in told if short(name).startswith(incomplete)]


def operations(ctx: typer.Context, incomplete: str) -> Found:
    """Return the long actions of every service."""
    found = [one for body in _of_workers(ctx, "/ops/operations") for one in body.get("operations", ())]
    told = [(str(one.get("operation_id")), str(one.get("state"))) for one in found]
    return [one for one in told if one[0].startswith(incomplete)]


def groups(ctx: typer.Context, incomplete: str) -> Found:
    """Return the groups of what is parked, of every service."""
    found = [one for body in _of_workers(ctx, "/ops/parked") for one in body.get("groups", ())]
    told = [(str(one.get("group")), f"{one.get('type')}: {one.get('error')}") for one in found]
    return [one for one in told if one[0].startswith(incomplete)]


def topics(incomplete: str) -> Found:
    """Return the topics, as they are declared."""
    own = [f"{service}.{kind}" for service in SERVICES for kind in ("events", "dead-letters")]
    return [(name, "") for name in (*own, "saga.audit", "ops.events") if name.startswith(incomplete)]


def services(incomplete: str) -> Found:
    """Return the services and the console."""
    return [(name, "") for name in PROGRAMS if name.startswith(incomplete)]


def processes(ctx: typer.Context, incomplete: str) -> Found:
    """Return the processes of the stack, whole services and roles."""
    from quadrille_cli.stack.ports import ROLES  # noqa: PLC0415 - as below

    names = (*_state(ctx, lambda there: there.processes, ()), *SERVICES, *ROLES)
    return [(name, "") for name in sorted(names) if name.startswith(incomplete)]


def _state(ctx: typer.Context, part: Callable[[Any], Any], nothing: Any) -> Any:  # noqa: ANN401 - of whatever is asked
    """Return a part of what the stack's state file says."""
    from quadrille_cli.stack import paths, state  # noqa: PLC0415 - 0.1 s that only a shell that asks spends

    there = state.load(paths.data_dir(ctx.params.get("data")))
    return nothing if there is None else part(there)


def _asked(ctx: typer.Context, name: str, path: str) -> Mapping[str, Any]:
    """Return what a port of the stack answers; nothing where it does not."""
    from quadrille_cli.client import Client  # noqa: PLC0415 - as above

    with suppress(Exception):
        port = _state(ctx, lambda there: there.ports.get(name), None)
        if port is not None:
            with Client(f"http://127.0.0.1:{port}", timeout=SECONDS) as api:
                body = api.demand("GET", path).body
            return body if isinstance(body, dict) else {}
    return {}


def _of_workers(ctx: typer.Context, path: str) -> Iterator[Mapping[str, Any]]:
    yield from (_asked(ctx, worker_ops(name), path) for name in PROGRAMS)
