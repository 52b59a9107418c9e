"""/docs in a real browser: where one starts, the test values, an example to be tried twice; dark too, and narrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Shop
from tests.console.browser import PROGRAM, Browser

LUMINANCE = """(() => {
  const [r, g, b, a] = getComputedStyle(document.querySelector('%s')).%s.match(/[0-9.]+/g).map(Number);
  return a === 0 ? 255 : 0.2126 * r + 0.7152 * g + 0.0722 * b; })()"""
TRY = "#operations-orders-place"
ANSWER = f"""((row) => row && row.querySelector('.response-col_status').innerText + ' ' + (
  row.innerText.match(/x-request-id: ([0-9a-f-]+)/) || ['', ''])[1])(
  document.querySelector('{TRY} .live-responses-table tbody tr'))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real headless Chromium."""
    assert PROGRAM, "no Chromium: apt-get install chromium (.ci/run does)"
    there = Browser(tmp_path_factory.mktemp("profile"))
    yield there
    there.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_read_light_and_dark_wide_and_narrow(
    shop: Shop, browser: Browser, tmp_path: Path, width: int, *, dark: bool
) -> None:
    """It begins with the start and the test values, is as wide as the screen, and as dark as the reader's machine."""
    with browser.page(width=width, dark=dark) as page:
        page.goto(f"{shop.url}/docs")
        page.until(f"document.querySelector('{TRY}')")
        page.shot(
            Path(os.environ.get("QUADRILLE_SHOTS") or tmp_path) / f"docs-{width}-{'dark' if dark else 'light'}.png"
        )
        text = page.text()
        back, front = (page.run(LUMINANCE % place) for place in (("html", "backgroundColor"), (".info p", "color")))

        assert "Start:" in text
        assert "tok_declined_funds" in text
        assert "/v1/events/stream" in text
        assert "/v1/webhooks" in text
        assert (back < 80) is dark
        assert abs(back - front) > 90
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.told() == []


def test_the_example_is_tried_twice_and_is_one_order(shop: Shop, browser: Browser) -> None:
    """Try it out, Execute, Execute again: 202 both times, and the same order."""
    with browser.page() as page:
        page.goto(f"{shop.url}/docs")
        page.until(f"document.querySelector('{TRY} .opblock-summary-control')")
        page.run(f"document.querySelector('{TRY} .opblock-summary-control').click()")
        page.until(f"document.querySelector('{TRY} .try-out__btn')")
        page.run(f"document.querySelector('{TRY} .try-out__btn').click()")
        seen = [""]
        for _ in range(2):
            page.until(f"document.querySelector('{TRY} .execute:not([disabled])')")
            page.run(f"document.querySelector('{TRY} .execute').click()")
            page.until(f"![null, '', {seen[-1]!r}].includes({ANSWER})")  # each answer has a request's id of its own
            seen.append(page.run(ANSWER))

        assert [one[:3] for one in seen[1:]] == ["202", "202"], seen
    assert len(shop.ask("GET", "/v1/orders").body["orders"]) == 1
