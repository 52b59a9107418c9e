"""Whatever anybody sends, the order API answers as its description says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from order import api, store
from order.domain import Orders
from order.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store
from quadrille.testing import OnPostgres, fuzz_api, serving


def test_nothing_undocumented(
    on_postgres: Callable[[HandlerRegistry[Orders], Store[Orders]], OnPostgres[Orders]], tmp_path: Path
) -> None:
    """schemathesis, positive and negative, finds no undocumented answer and no 5xx."""
    db = on_postgres(on, store)
    with serving(api.make, db.service, db.connect) as url:
        unforeseen = "reference-taken", "idempotency-key-missing", "webhook-url-refused", "webhook-limit"
        fuzz_api(url, 16, tmp_path, unforeseen)  # a reference stands in for the key
