"""An operator who replays the pantry's topics: asks over the ops port's routes and waits for what comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.routing import compile_path

from quadrille.ops.replays import ReplayRoutes
from quadrille.ops.routes import OpsRequest
from quadrille.replay.fence import Effects
from quadrille.replay.manager import Replays, Shadows
from quadrille.replay.projection import Projection
from quadrille.service import Service
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import Kitchen

HARMLESS = Effects({"loaves.held": frozenset(), "loaves.short": frozenset(), "loaves.returned": frozenset()})
RESTING = {"PLANNED", "DONE", "PAUSED", "FAILED", "CANCELLED"}


class Rewinder:
    """One service's replays, running; ``since`` is when the test began."""

    def __init__(self, replays: Replays, shadows: Shadows) -> None:
        self.routes = ReplayRoutes(replays, shadows).routes()
        self.since = datetime.now(UTC).isoformat(timespec="milliseconds")

    def ask(self, method: str, target: str, **body: object) -> dict[str, Any]:
        """Return the document of an answer; raises Problem for a refusal."""
        path, _, query = target.partition("?")
        for (verb, pattern), route in self.routes.items():
            if verb == method and (found := compile_path(pattern.partition("?")[0])[0].match(path)):
                asked = OpsRequest(found.groupdict(), dict(parse_qsl(query)), body, "tester", "a test")
                return dict(route(asked).document)
        raise LookupError(target)

    def begin(self, **wanted: object) -> str:
        """Ask for a replay and return its id."""
        return str(self.ask("POST", "/ops/replays", **wanted)["operation_id"])

    def show(self, identity: str) -> dict[str, Any]:
        """Return an operation as it is now."""
        return self.ask("GET", f"/ops/operations/{identity}")

    def rests(self, identity: str) -> dict[str, Any]:
        """Wait until an operation goes no further, and return it."""
        wait_until(lambda: self.show(identity)["state"] in RESTING, what=f"operation {identity} rests")
        return self.show(identity)

    def dry(self, **wanted: object) -> dict[str, Any]:
        """Look, and return the plan."""
        wanted = {"into": "dry", "topic": "order.events", "from": self.since, **wanted}
        planned = self.rests(self.begin(**wanted))
        assert planned["state"] == "PLANNED", planned
        return planned

    def live(self, planned: dict[str, Any], name: str, **more: object) -> dict[str, Any]:
        """Do what was planned, fast, and return how it ended."""
        wanted = {"into": "live", "plan": planned["operation_id"], "confirm": name, "rate": 10_000, **more}
        return self.rests(self.begin(**wanted))


@contextmanager
def rewinding(
    kitchen: Kitchen, service: Service[Any] | None = None, batch_max: int = 100, projections: Sequence[Projection] = ()
) -> Iterator[Rewinder]:
    """Run the replays of the kitchen's service while the block lasts; nothing the pantry says is answered outside."""
    context = kitchen.context(service, batch_max=batch_max)
    with Replays(context, HARMLESS) as replays, Shadows(context, projections) as shadows:
        yield Rewinder(replays, shadows)


def totals(document: dict[str, Any]) -> dict[str, int]:
    """Return how many records had each verdict, whatever their type."""
    found: dict[str, int] = {}
    for counts in document["progress"]["verdicts"].values():
        for verdict, count in counts.items():
            found[verdict] = found.get(verdict, 0) + count
    return found


def all_read(kitchen: Kitchen, db: Database) -> None:
    """Let the worker have read everything, whatever it made of it."""
    kitchen.flush()
    db.rows("TRUNCATE position")
    kitchen.start_here()
