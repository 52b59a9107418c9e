"""An operator's walk, as a person goes it: a handler breaks, an order is parked, found, explained, mended, completed.

A copy of the sources in a place of its own, installed and started as the README says; all that follows is typed at its
command line or seen in a real browser. How soon the first screen tells is printed, and held against no bound: the
machine may have other things to do.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import httpx
import pytest

from console import screens
from tests.console.browser import LOOKS, Browser, Page
from tests.stack.conftest import MakePlace, Place, first_start  # noqa: F401 - a fixture

PATIENCE_SECONDS = 240.0
COLUMNS = 80
HANDLERS = "services/payment/src/payment/handlers.py"
HANDLER = '    """Charge the card now that the stock is held, as soon as the amount is known."""\n'
BROKEN = '    amount = {"EUR": 0}["amount"]\n    assert amount\n'
RESTART = "quadrille restart payment-worker"


@dataclass(frozen=True, slots=True)
class Person:
    """Who walks: at a terminal of 80 columns in the checkout, and in front of the console's first screen."""

    place: Place
    console: str
    browser: Browser
    page: Page
    shots: Path

    def type(self, line: str, *codes: int) -> str:
        """Type a line and read all of the answer, which fits the screen."""
        code, said = self.place.quadrille(*shlex.split(line)[1:], env={"COLUMNS": str(COLUMNS)})
        print(f"$ {line}\n{said}")  # noqa: T201 - the walk is read by people
        assert code in (codes or (0,)), said
        assert [one for one in said.splitlines() if len(one) > COLUMNS] == []
        return said

    def until(self, line: str, pattern: str) -> str:
        """Type a line again until it answers so."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not re.search(pattern, said := self.place.quadrille(*shlex.split(line)[1:])[1]):
            assert time.monotonic() < end, f"{line} never said {pattern}: {said}"
            time.sleep(0.2)
        return said

    def photograph(self, name: str) -> None:
        """Take pictures of where the browser is: large and small, light and dark."""
        url = self.page.run("location.href")
        for wide, dark in ((width, scheme == "dark") for width, scheme in LOOKS):
            with self.browser.page(width=wide, dark=dark) as other:
                other.goto(url)
                other.shot(self.shots / f"walk-{name}-{wide}{'-dark' if dark else ''}.png")


def line_of(place: Place, text: str) -> int:
    """Where a text stands in the handlers."""
    lines = (place.checkout / HANDLERS).read_text("utf-8").splitlines()
    return next(n for n, line in enumerate(lines, 1) if text in line)


def edit(place: Place, before: str, after: str) -> None:
    """Change the handlers, as an editor does."""
    file = place.checkout / HANDLERS
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")


@pytest.fixture
def person(request: pytest.FixtureRequest, browser: Browser, shots: Path) -> Iterator[Person]:
    """A person with a checkout of his own, whose stack runs, with tea on the shelf."""
    make: MakePlace = request.getfixturevalue("first_start")
    place = make("walker", "shop")
    code, said = place.make("setup")
    assert code == 0, said
    code, said = place.quadrille("up", "--detach")
    assert code == 0, said
    addresses = json.loads(place.quadrille("env", "-o", "json")[1])
    tea, there = f"{addresses['INVENTORY_URL']}/v1/stock/SKU-TEA", {"If-None-Match": "*"}
    assert httpx.put(tea, json={"available": 100, "sealed": False}, headers=there).is_success
    with browser.page() as page:
        page.goto(f"{addresses['CONSOLE_URL']}/")
        yield Person(place, addresses["CONSOLE_URL"], browser, page, shots)


@contextmanager
def watching(person: Person, order: str) -> Iterator[IO[str]]:
    """`quadrille watch`, left with Ctrl-C: its lines as they come."""
    place = person.place
    watch = subprocess.Popen(
        [".venv/bin/quadrille", "watch", order], cwd=place.checkout, env=dict(place.env), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert watch.stdout
    try:
        yield watch.stdout
        watch.send_signal(signal.SIGINT)
        assert watch.wait(PATIENCE_SECONDS) == 130
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()


def test_no_page_leaves_the_last_news_out() -> None:
    """A page that throttles what it is told drops what comes last; the server tells it once a second instead."""
    pages = Path(screens.__file__).parent / "pages" / "templates"
    triggers = [
        line for file in pages.glob("*.html") for line in file.read_text("utf-8").splitlines() if "sse:" in line
    ]
    assert triggers
    assert [line for line in triggers if "throttle" in line] == []


def test_the_walk(person: Person) -> None:
    """Broken, placed, seen on the first screen, explained by file and line, mended, redriven, complete, its trace."""
    edit(person.place, HANDLER, HANDLER + BROKEN)
    broken = line_of(person.place, '["amount"]')
    assert "started again: payment-worker" in person.type(RESTART)

    order = seen(person)
    explained(person, order, f"payment/handlers.py:{broken}")
    person.until("quadrille parked list", "1 dead")

    edit(person.place, BROKEN, "")
    assert "started again: payment-worker" in person.type(RESTART)
    with watching(person, order) as told:
        command = re.search(r"quadrille parked redrive --service payment [0-9a-f-]{36}", why(person, order))
        assert command
        assert "went through" in person.type(f"{command[0]} --reason 'its handler is mended'")
        assert any("order.confirmed" in line for line in told)
    person.page.until("document.body.innerText.includes('CONFIRMED')")
    person.photograph("complete")
    assert "is CONFIRMED" in why(person, order)
    assert "its handler is mended" in person.type("quadrille audit list --action parked-redrive")

    traced(person, order)
    person.page.goto(f"{person.console}/")
    person.page.until("document.querySelector('[data-verdict]').innerText.includes('All flows')")
    person.photograph("all-flows")
    assert person.page.told() == []


def seen(person: Person) -> str:
    """Place an order, and look at the first screen until it shows what is parked: how soon is printed."""
    shown = person.type("quadrille orders place")
    placed = re.search(r"ago, (\S+Z)", shown)
    person.page.until("document.body.innerText.includes('1 input parked')")
    assert placed
    after = (datetime.now(UTC) - datetime.fromisoformat(placed[1])).total_seconds()
    print(f"the first screen showed the order parked {after:.2f} s after it was placed")  # noqa: T201 - what is measured
    person.page.until("document.body.innerText.includes('KeyError')")
    person.photograph("parked")
    return shown.split()[1]


def why(person: Person, order: str) -> str:
    """What `quadrille why` says, as if the screen had no edge."""
    return re.sub(r"\s+", " ", person.type(f"quadrille why {order[-8:]}").replace("\\\n", " "))


def explained(person: Person, order: str, place: str) -> None:
    """Terminal and page name the handler's file and line; status says what to look at."""
    cause = rf"stock\.reserved is parked: its handler raised KeyError in {re.escape(place)}:take_permission"
    person.until(f"quadrille why {order[-8:]} -o json", cause)
    assert re.match(rf"…{order[-4:]} waits [\d.]+ (s|min) for payment: {cause} ", why(person, order))
    page = person.page
    page.follow(lambda: page.run(f"document.querySelector('main a[href=\"/orders/{order}\"]').click()"))
    page.until(f"document.body.innerText.includes('{place}')")
    person.photograph("why")
    assert re.search(r"parked +payment: 1 ", person.type("quadrille status", 0, 1))


def traced(person: Person, order: str) -> None:
    """The waterfall names how long it was parked; the printed link is its page; the logs tell the same."""
    person.until(f"quadrille trace {order[-8:]}", r"(?s)parked .*charge_card")
    assert re.search(r"in all .*parked [\d.]+m?s", re.sub(r"\s+", " ", person.type(f"quadrille trace {order[-8:]}")))
    code, story = person.place.quadrille("logs", "--order", order[-8:])  # a line of JSON each, as it goes into a pipe
    assert (code, "input parked" in story, "parked input went on" in story) == (0, True, True)
    link = re.search(rf"{person.console}/traces/[0-9a-f]{{32}}", person.type(f"quadrille orders show {order[-8:]}"))
    assert link
    person.page.goto(link[0])
    person.page.until("document.querySelector('svg.waterfall') && document.body.innerText.includes('charge_card')")
    person.photograph("trace")
