"""The chassis knows no order, card or mail: no word of the shop stands in its code, texts or docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHASSIS = Path(__file__).parents[2] / "chassis/src/quadrille"
WORDS = re.compile(
    r"\b(?:orders?|cards?|e?mails?|smtp|processors?|payments?|stock|inventory|notifications?|skus?"
    r"|customers?|refunds?|charges?|money|currenc(?:y|ies)|baskets?|shops?|goods|iso 4217)\b",
    re.IGNORECASE,
)
PARTS = re.compile(r"_|(?<=[a-z])(?=[A-Z])")  # of a name: smtp_url, OrderCheck
# What such a word may stand in, and why; a place of ``file: text`` counts in that file alone.
ALLOWED = {
    r"order_id": "a saga's key on every wire: events, spans, logs, routes",
    r"\bOrderStuck\b": "an event's wire name",
    r"CHARGE_OPEN": "an outcome's wire name",
    r"SMTP_BIND": "a variable of the sandbox, which may stand in the same environment",
    r"ORDER BY": "SQL",
    r"logs.py: .*_ORDER": "a sequence",
    r"in_order": "a sequence",
    r"[Rr]eading order": "a sequence",
    r"order=True": "a dataclass that compares",
    r"(?:in|the|any|no|own|one|lock|global|commit|out of) order\b(?! (?:is|goes|was|of this)|')": "a sequence",
    r"(?:places|names), order, ": "a sequence",
    r"order survives": "a sequence",
    r"in its order": "a sequence",
    r"earlier one of its order": "a fixed phrase that stands in parked rows",
    r"structlog\.[a-z.]*processors|processors=|ProcessorFormatter(?:\.remove_processors_meta)?": "structlog's",
    r"(?:Batch|SynchronousMulti)SpanProcessor": "OpenTelemetry's",
    r"_(?:batch_)?processors?\b|_span_processor|the processors;": "OpenTelemetry's",
    r"/ops/orders/": "a route, and routes stay",
    r'"order": ': "a member of answers and audit rows, which stay",
    r"ops/actions.py: .*(?:of this order|Look at the order|the order goes on)": "answers of the ops port, which stay",
    r"replay/(?:plan|runner).py: .*(?:\border: (?:Text|str)|(?:request|plan)\.order\b)": "a member of a replay's plan",
    r"replay/report.py: .*\borders\b": "a member of a replay's report",
}


def domain_words(file: str, text: str) -> Iterator[str]:
    """Yield each line with a word of the domain that nothing allows, and its number."""
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{file}: {line}"
        for allowed in ALLOWED:
            place = re.sub(allowed, lambda found: WORDS.sub("", PARTS.sub(" ", found[0])), place)
        if WORDS.search(PARTS.sub(" ", place.partition(": ")[2])):
            yield f"{file}:{number}: {line.strip()}"


def test_the_chassis_has_no_word_of_the_shop() -> None:
    """What is an order's, a card's or a mail's stands in a service, and is given to the chassis by it."""
    files = {str(path.relative_to(CHASSIS)): path.read_text("utf-8") for path in CHASSIS.rglob("*.py")}

    assert [line for file, text in sorted(files.items()) for line in domain_words(file, text)] == []


@pytest.mark.parametrize(
    "planted",
    [
        "class OrderCheck: ...",
        'DELETE = "DELETE FROM orders"',
        "smtp_url: str",
        '"""Sends a mail."""',
        "# the card processor answers late",
        "# waits until the order is confirmed",
        'KIND = "payment"',
        '"""In order of size: an order comes last."""',
    ],
)
def test_a_word_of_the_shop_is_found(planted: str) -> None:
    """A name, a text, a docstring or a comment of the domain is found with its line."""
    assert list(domain_words("x.py", f"x = 1\n{planted}\n")) == [f"x.py:2: {planted}"]


def test_everything_allowed_is_needed() -> None:
    """What is allowed stands somewhere; an exception nobody needs any more goes."""
    lines = [
        f"{path.relative_to(CHASSIS)}: {line}"
        for path in CHASSIS.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
    ]

    assert [allowed for allowed in ALLOWED if not any(re.search(allowed, line) for line in lines)] == []
