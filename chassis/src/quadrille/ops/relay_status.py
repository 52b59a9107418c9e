"""Relay status for operators: what a relay does, how far it is, what PostgreSQL keeps for it, how old its news is."""

from __future__ import annotations

import psycopg

from quadrille.observability.metrics import Counter
from quadrille.ops.relay_actions import RelayActions, held_rows
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.relay.relay import Relay
from quadrille.relay.replication import conninfo
from quadrille.relay.streaming import FAILURES, RECOVERIES
from quadrille.values import rfc3339
from quadrille.web.problems import refuse

# A beat is committed every two seconds: what was published last is hardly older, however little there is to say.
LOOK = """
SELECT r.commit_lsn::text, r.committed_at, extract(epoch FROM clock_timestamp() - r.committed_at)::float, r.rescan,
       s.active, s.wal_status, pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint,
       s.confirmed_flush_lsn::text, (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), r.commit_lsn)::bigint)
  FROM (SELECT) one LEFT JOIN relay_progress r ON true LEFT JOIN pg_replication_slots s ON s.slot_name = %s"""


def relay_routes(service: str, dsn: str, slot: str, relay: Relay) -> OpsRoutes:
    """Return GET /ops/relay: state and trouble, slot, position, WAL kept for it, its last beat, rows that are held.

    And what an operator may ask of it.
    """

    def tell(_: OpsRequest) -> OpsResponse:
        try:
            with psycopg.connect(conninfo(dsn), autocommit=True) as tx:
                row, held = tx.execute(LOOK, [slot]).fetchone(), held_rows(tx)
        except psycopg.OperationalError:
            refuse("dependency-unavailable", dependency="database", retry_after=1)
        position, at, age, rescan, active, kept_as, kept, confirmed, behind = row or (None,) * 9
        there = None
        if active is not None:
            there = {"name": slot, "active": active, "wal_status": kept_as, "wal_kept_bytes": kept,
                     "confirmed_lsn": confirmed}  # fmt: skip
        return OpsResponse(200, {
            "service": service, "state": relay.state, "trouble": relay.trouble, "slot": there,
            "position_lsn": position, "behind_bytes": behind, "published_at": at and rfc3339(at),
            "canary_age_seconds": age, "rescan": rescan, "recoveries": _count(RECOVERIES),
            "delivery_failures": _count(FAILURES), "held": held,
        })  # fmt: skip

    return {("GET", "/ops/relay"): tell, **RelayActions(service, dsn, relay).routes()}


def _count(counter: Counter) -> int:
    """Return how often this process has counted something, whatever its labels."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
