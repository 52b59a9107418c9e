"""What a command is told of its key beyond the rows: events that came and were not handled."""

from __future__ import annotations

import pytest

from tests.chassis.support.database import Database, chained, envelope_of
from tests.chassis.support.sample_messages import BreadOrdered, FillShelf, Mode, OrderDropped


@pytest.mark.proves("resolve.owed")
def test_a_command_that_asks_is_told_what_waits_for_its_key(db: Database) -> None:
    """The types parked or discarded under its own key; what was redriven waits no more."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*chained([BreadOrdered("rye", mode=Mode.UNLUCKY), OrderDropped("rye")]))
    first, later, other = FillShelf("rye", 5), FillShelf("rye", 6), FillShelf("oat", 5)

    db.commit(envelope_of(first))
    db.rows("UPDATE parked SET state = CASE type WHEN 'order.dropped' THEN 'DISCARDED' ELSE 'REDRIVEN' END")
    db.commit(envelope_of(later), envelope_of(other))

    assert [w.waiting for w in (first, later, other)] == [{"bread.ordered", "order.dropped"}, {"order.dropped"}, set()]
