"""Whatever anybody sends, the order API answers as its description says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chassis.registry import Reactions
from chassis.service import Store
from chassis.testing_api import serving
from chassis.testing_commit import OnPostgres
from chassis.testing_fuzz import fuzz
from order import api, store
from order.domain import Orders
from order.handlers import on


def test_nothing_undocumented(
    on_postgres: Callable[[Reactions[Orders], Store[Orders]], OnPostgres[Orders]], tmp_path: Path
) -> None:
    """schemathesis, positive and negative, finds no undocumented answer and no 5xx."""
    db = on_postgres(on, store)
    with serving(api.make, db.service, db.connect) as url:
        fuzz(url, 12, tmp_path)
