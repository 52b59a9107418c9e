"""A traceparent is read as W3C Trace Context says: strictly, and of versions to come what is known of them already."""

from __future__ import annotations

import pytest

from quadrille.observability.trace_context import Context, parse

TRACE, SPAN = "04a75036e9d520bb983c5ed03b8d0182", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f" 00-{TRACE}-{SPAN}-01\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-00-what-the-future-will-be-like", False),
        (f"fe-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_a_parent_is_known(header: str, sampled: bool) -> None:  # noqa: FBT001 - a case
    """Version 00 as it is; a higher version by its first parts, whatever follows after a dash."""
    assert parse(header) == Context(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        None, "", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01more", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-1", f"0-{TRACE}-{SPAN}-01", f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-0g",
    ],
)  # fmt: skip
def test_what_is_no_parent(header: str | None) -> None:
    """What is not valid is nobody's trace: a new one begins."""
    assert parse(header) is None
