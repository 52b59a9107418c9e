"""The session's own stack, audited after whatever the other tests have done to it: the last word of a run."""

from __future__ import annotations

from tests.audit.whole_session import wrong_after
from tests.conftest import Shop


def test_the_session_s_stack_holds_all_invariants(shop: Shop) -> None:
    """Faults, replays, cancellations, redrives: whatever this session did, the whole agrees in the end."""
    assert not (wrong := wrong_after(shop)), "\n".join(map(str, wrong))
