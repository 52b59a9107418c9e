"""What the console has drawn by hand of the dance is what the handlers say, and every topic is heard."""

from __future__ import annotations

from console.dance import HEARS, arrows
from console.domain import DECISIONS, SAID
from console.handlers import TOPICS
from quadrille.messages import Event
from quadrille_cli.saga.saga_map import saga_of
from quadrille_cli.stack import topics


def test_who_hears_what_is_what_the_handlers_say() -> None:
    """Each arrow has the events its target's handlers take from its source, and there is no other arrow."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for service in saga_of():
        for kind, cls in service.consumes(Event).items():
            wanted.setdefault((cls.source, service.service), set()).add(kind)

    assert {pair: set(kinds) for pair, kinds in HEARS.items()} == wanted
    assert {(arrow.source, arrow.target) for arrow in arrows(())} == wanted.keys()


def test_every_state_is_read_off_an_event_that_is_emitted() -> None:
    """What an order's standing is made of are events of the services, each by its own name, none forgotten."""
    emitted = {kind for service in saga_of() for kind in service.emits(Event)}
    known = {*DECISIONS, *(kind for kinds in SAID.values() for kind in kinds)}

    assert known - emitted == set()
    assert {kind for kind in emitted - known if not kind.startswith(("finding.", "order.stuck"))} == set()


def test_every_topic_is_heard() -> None:
    """A topic that is added to the whole is heard by the console, too."""
    assert set(TOPICS) == {topic.name for topic in topics.TOPICS}
