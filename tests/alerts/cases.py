"""For each alert: what has to be told for it to fire, and what comes close and must leave it silent.

Series are written as promtool has them, a value each 15 seconds: ``0x40`` is ten minutes of 0, ``0+3x40`` rises.
"""

from __future__ import annotations

from typing import NamedTuple

Series = dict[str, str]


class Case(NamedTuple):
    """Series with which an alert fires, and with which it does not; looked at after 20 minutes."""

    fires: Series
    silent: Series


def stuck(level: str, value: str) -> Series:
    """Two workers tell of the same orders that payment owes a refund."""
    labels = f'owes="payment",fact="payment.refunded",level="{level}",service="order",role="worker"'
    return {f'quadrille_order_stuck_orders{{{labels},instance="{n}"}}': value for n in (1, 2)}


def of_order(name: str, labels: str, value: str) -> Series:
    """One process of order tells one series."""
    return {f'{name}{{service="order",role="worker"{"," * bool(labels)}{labels}}}': value}


def parked(state: str, value: str) -> Series:
    """Two workers of order tell of the same parked inputs."""
    labels = f'type="payment.charged",error_class="HANDLER",state="{state}"'
    return {f'quadrille_parked_inputs{{{labels},service="order",instance="{n}"}}': value for n in (1, 2)}


GONE, BACK = "1x80", "1x70 0x10"
CASES: dict[str, Case] = {
    "QuadrilleOrderStuck": Case(stuck("WARN", "2x80"), stuck("WARN", "2x60 0x20")),
    "QuadrilleOrderStuckLong": Case(stuck("PAGE", "1x80"), stuck("WARN", "9x80")),
    "QuadrilleOrderStuckVeryLong": Case(stuck("ESCALATE", "1x80"), stuck("PAGE", "9x80")),
    "QuadrilleCompensationFailed": Case(
        of_order("quadrille_order_in_flight_orders", 'status="COMPENSATION_FAILED"', "1x80"),
        of_order("quadrille_order_in_flight_orders", 'status="CANCELLING"', "9x80"),
    ),
    "QuadrilleFindingOpen": Case(
        {'quadrille_findings_open{kind="order-behind",service="console"}': "0x70 1x10"},
        {'quadrille_findings_open{kind="order-behind",service="console"}': "1x60 0x20"},
    ),
    "QuadrilleReconcilerBehind": Case(
        {'quadrille_reconciler_judged_timestamp_seconds{service="console"}': "15x80"},
        {'quadrille_reconciler_judged_timestamp_seconds{service="console"}': "0+15x80"},
    ),
    "QuadrilleOrdersTimeOut": Case(
        of_order("quadrille_order_ended_total", 'status="CANCELLED",reason="DEADLINE"', "0+6x80")
        | of_order("quadrille_order_ended_total", 'status="CONFIRMED",reason=""', "0+94x80"),
        of_order("quadrille_order_ended_total", 'status="CANCELLED",reason="DEADLINE"', "0+4x80")
        | of_order("quadrille_order_ended_total", 'status="CONFIRMED",reason=""', "0+96x80"),
    ),
    "QuadrilleIntakeShut": Case(
        of_order("quadrille_intake_state", 'state="SHUT"', "0x40 1x40"),
        of_order("quadrille_intake_state", 'state="SHUT"', "0x79 1x1")
        | of_order("quadrille_intake_state", 'state="PAUSED"', "1x80"),
    ),
    "QuadrilleIntakeGuarded": Case(
        of_order("quadrille_intake_state", 'state="GUARDED"', "0x40 1x40"),
        of_order("quadrille_intake_state", 'state="GUARDED"', "0x79 1x1")
        | of_order("quadrille_intake_state", 'state="SHUT"', "1x80"),
    ),
    "QuadrilleIntakePaused": Case(
        of_order("quadrille_intake_state", 'state="PAUSED"', "1x80"),
        of_order("quadrille_intake_state", 'state="PAUSED"', "0x40 1x40"),
    ),
    "QuadrilleServiceSilent": Case(
        of_order("quadrille_service_silent", 'source="payment"', GONE),
        of_order("quadrille_service_silent", 'source="payment"', BACK),
    ),
    "QuadrilleProcessAway": Case(
        {'up{job="quadrille",service="payment",role="worker"}': "1x40 0x40"},
        {'up{job="quadrille",service="payment",role="worker"}': "0x78 1x2"},
    ),
    "QuadrilleWorkerStalled": Case(
        of_order("quadrille_stalled_seconds", "", "0x60 30x20"), of_order("quadrille_stalled_seconds", "", "30x60 0x20")
    ),
    "QuadrilleInputParked": Case(parked("OPEN", "0x60 2x20"), parked("OPEN", "2x60 0x20") | parked("DEAD", "2x80")),
    "QuadrilleInputDead": Case(parked("DEAD", "0x70 1x10"), parked("OPEN", "2x80")),
    "QuadrilleConsumerLag": Case(
        of_order("quadrille_consumer_lag_records", 'topic="payment.events",partition="1"', "600x80")
        | of_order("quadrille_consumer_lag_records", 'topic="payment.events",partition="2"', "600x80"),
        of_order("quadrille_consumer_lag_records", 'topic="payment.events",partition="1"', "900x80"),
    ),
    "QuadrilleBreakerOpen": Case(
        {'quadrille_breaker_state{service="payment"}': "0x40 2 1 2 1 2 1 2 1 2 1x40"},
        {'quadrille_breaker_state{service="payment"}': "2x75 0 2 2 2 2 2"},
    ),
    "QuadrilleDegraded": Case(
        of_order("quadrille_degraded", 'what="traces"', GONE),
        of_order("quadrille_degraded", 'what="traces"', "0x70 1x10"),
    ),
    "QuadrilleSpansDropped": Case(
        of_order("quadrille_spans_dropped_total", "", "0x70 5x10"),
        of_order("quadrille_spans_dropped_total", "", "5x80"),
    ),
    "QuadrilleGaugesOld": Case(
        of_order("quadrille_gauges_read_timestamp_seconds", "", "0+15x60 900x20"),
        of_order("quadrille_gauges_read_timestamp_seconds", "", "0+15x80"),
    ),
    "QuadrilleRelayBehind": Case(
        of_order("quadrille_outbox_unpublished_age_seconds", "", "0x60 31+15x20"),
        of_order("quadrille_outbox_unpublished_age_seconds", "", "30x80"),
    ),
    "QuadrilleOutboxGrows": Case(
        of_order("quadrille_outbox_unpublished_rows", "", "0+50x80"),
        of_order("quadrille_outbox_unpublished_rows", "", "8000-50x80"),
    ),
    "QuadrilleRelayStalled": Case(
        of_order("quadrille_relay_stalled_seconds", "", "0x70 40x10"),
        of_order("quadrille_relay_stalled_seconds", "", "40x70 0x10"),
    ),
    "QuadrilleRelayRefused": Case(
        of_order("quadrille_relay_refused_ratio", "", GONE), of_order("quadrille_relay_refused_ratio", "", "0x80")
    ),
    "QuadrilleRelayRecovered": Case(
        of_order("quadrille_relay_recoveries_total", 'cause="the slot is gone"', "_x70 1x10"),
        of_order("quadrille_relay_recoveries_total", 'cause="the slot is gone"', "1x80")
        | of_order("quadrille_relay_recoveries_total", 'cause=""', "_x70 1x10"),
    ),
    "QuadrilleRowsLeftOut": Case(
        of_order("quadrille_relay_left_out_rows_total", "", "0x70 3x10"),
        of_order("quadrille_relay_left_out_rows_total", "", "0x80"),
    ),
    "QuadrilleWalKept": Case(
        of_order("quadrille_relay_lag_bytes", "", "2000000000x80"),
        of_order("quadrille_relay_lag_bytes", "", "900000000x80"),
    ),
}
