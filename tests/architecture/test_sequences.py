"""The sequence diagrams are what the handlers do, and a path that none of them could take is found."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quadrille.handlers import HandlerRegistry
from quadrille.messages import Emitted, Message, Reply, Timer
from quadrille.system_messages import SystemEvent
from quadrille_cli.saga import sequences
from quadrille_cli.saga.checks import Saga
from quadrille_cli.saga.saga_map import BEGIN, END, SEQUENCES, files, whole_saga
from quadrille_cli.saga.sequences import PATHS, Path, walk
from tests.model.machine_house import House, Scene
from tests.model.machine_outside import FINE

DONE, DECLINED, CANCELLED = PATHS
Handled = list[tuple[str, tuple[str, ...]]]


@pytest.fixture(scope="module")
def saga() -> Saga:
    """The saga as it is."""
    return whole_saga()


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Handled:
    """What each handler emitted since the test began, as it is drawn: no replies, timers and events of the chassis."""
    seen: Handled = []
    dispatch = HandlerRegistry.dispatch

    def watched(on: HandlerRegistry[Any], body: Message, work: Any) -> tuple[Emitted, ...]:  # noqa: ANN401 - of any service
        emitted = dispatch(on, body, work)
        drawn = tuple(one.type for one in emitted if not isinstance(one, Reply | Timer | SystemEvent))
        seen.append((f"{on.service}.{on.specs[type(body)].name}", drawn))
        return emitted

    monkeypatch.setattr(HandlerRegistry, "dispatch", watched)
    return seen


@pytest.mark.parametrize(
    ("path", "card", "cancels"), [(DONE, "charged", False), (DECLINED, "declined", False), (CANCELLED, "charged", True)]
)
def test_the_diagrams_are_what_the_handlers_do(
    saga: Saga, handled: Handled, path: Path, card: str, *, cancels: bool
) -> None:
    """An order driven along each path calls the very handlers that are drawn, and they emit what is drawn."""
    house = House(Scene())
    order_id = house.place("key", card)
    house.go(FINE)
    if cancels:
        house.cancel(order_id)
        house.go(FINE)

    assert sorted(handled) == sorted(walk(saga, path).handled)


def test_every_declared_path_can_be_taken(saga: Saga) -> None:
    """The paths as declared are whole: no fork is open, none is made up."""
    assert list(sequences.findings(saga)) == []


PLANTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a fork left open": (
        lambda path: replace(path, forks={k: v for k, v in path.forks.items() if k != "order.confirm"}),
        "order.confirm may emit order.cancellation_requested, order.confirmed: the path does not say which",
    ),
    "what no signature allows": (
        lambda path: replace(path, forks={**path.forks, "inventory.commit_stock": ("stock.released",)}),
        "inventory.commit_stock never emits stock.released",
    ),
    "a handler that is never reached": (
        lambda path: replace(path, forks={**path.forks, "order.note_refunded": ("order.cancelled",)}),
        "order.note_refunded is never reached",
    ),
    "a result that the outside never gives": (
        lambda path: replace(path, results={**path.results, "charge_card": "card_refunded"}),
        "charge_card has no result card_refunded",
    ),
    "an intent that is never emitted": (
        lambda path: replace(path, results={**path.results, "refund_card": "card_refunded"}),
        "refund_card is never emitted",
    ),
    "a command that nobody handles": (lambda path: replace(path, begins="place_oder"), "nobody handles place_oder"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_path_is_found(saga: Saga, fault: str) -> None:
    """A path that the handlers could not take is named, with what is wrong about it."""
    plant, finding = PLANTED[fault]

    assert finding in walk(saga, plant(DONE)).faults


def test_the_page_is_redrawn_and_needs_its_marks(tmp_path: pathlib.Path) -> None:
    """What stands between the marks is replaced by the diagrams; a page that has lost them is named."""
    page = tmp_path / SEQUENCES
    page.parent.mkdir()
    page.write_text(f"before\n{BEGIN}\nan old picture\n{END}\nafter\n", "utf-8")
    drawn = files(tmp_path)[page]
    page.write_text("no marks", "utf-8")

    assert drawn.count("sequenceDiagram") == len(PATHS)
    assert "an old picture" not in drawn
    assert (drawn.splitlines()[0], drawn.splitlines()[-1]) == ("before", "after")
    with pytest.raises(ValueError, match=r"choreography\.md has lost its marks"):
        files(tmp_path)
