"""The stack the commands were tried on, which in a shared run is one of its own, audited after them."""

from __future__ import annotations

from tests.audit.whole_session import wrong_after
from tests.conftest import Shop


def test_what_commands_have_left_holds_all_invariants(shop: Shop) -> None:
    """Whatever commands did, refused and repeated, the books agree in the end."""
    assert not (wrong := wrong_after(shop)), "\n".join(map(str, wrong))
