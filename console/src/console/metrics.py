"""What the console counts of its own: what the reconciler has found, and how its rounds go."""

from __future__ import annotations

from quadrille.app import Counter, Gauge

FINDINGS = Gauge("quadrille_findings_open", "What the reconciler has found and is so still", ["kind"])
ROUNDS = Counter(
    "quadrille_reconciler_rounds_total", "Rounds of the reconciler: JUDGED, BEHIND, AWAY or FAILED", ["outcome"]
)
ORDERS = Counter("quadrille_reconciler_orders_total", "Orders looked at: judged, or moving", ["verdict"])
JUDGED_AT = Gauge("quadrille_reconciler_judged_timestamp_seconds", "When a round last came to its end")
