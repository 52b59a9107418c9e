"""The registry: the saga is read from signatures, and what cannot be read is refused at import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from quadrille.handlers import HandlerRegistry
from quadrille.messages import Event, Message
from quadrille.rows import Rows
from tests.chassis.support import sample_service
from tests.chassis.support.sample_messages import (
    BakeCake,
    BeginTasting,
    BreadOrdered,
    CakeBaked,
    CakeReady,
    DishServed,
    FillShelf,
    LoavesHeld,
    LoavesReturned,
    LoavesShort,
    MealOrdered,
    OrderDropped,
    ShelfFilled,
    SoupServed,
)
from tests.chassis.support.sample_service import Pantry


@dataclass(frozen=True, slots=True)
class Larder:
    """Another working set."""

    holds: Rows[str, int]


@dataclass(frozen=True, slots=True)
class Homeless(Event):
    """An event whose producer nobody named."""

    order_id: str


@dataclass(slots=True)
class Mutable(Event, source="order"):
    """An event a handler could change."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Namesake(Event, source="payment"):
    """Another class of a wire type that is heard already."""

    type: ClassVar[str] = "bread.ordered"
    order_id: str


def twin(order: Namesake, pantry: Pantry) -> None:
    """Hear the namesake."""


def three(order: BreadOrdered, pantry: Pantry, more: int = 0) -> None:
    """Take a third parameter."""


def unannotated(order, pantry: Pantry) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - planted
    """Hear nobody knows what."""


def speechless(order: BreadOrdered, pantry: Pantry):  # type: ignore[no-untyped-def] # noqa: ANN201 - planted
    """Say nobody knows what."""


def anything(order: Event, pantry: Pantry) -> None:
    """Hear a base class."""


def whatever(order: BreadOrdered, pantry: Pantry) -> Event | None:
    """Say a base class."""
    return None


def elsewhere(order: BreadOrdered, larder: Larder) -> None:
    """Work on another working set."""


def either(order: BreadOrdered | OrderDropped, pantry: Pantry) -> None:
    """Hear two types."""


def commands(order: BreadOrdered, pantry: Pantry) -> FillShelf:
    """Say a command."""
    return FillShelf(order.sku, 0)


def rumour(order: Homeless, pantry: Pantry) -> None:
    """Hear an event without a topic."""


def unsafe(order: Mutable, pantry: Pantry) -> None:
    """Hear an event that can be changed."""


def baked(answer: CakeBaked, pantry: Pantry) -> None:
    """Hear an answer."""


Plant = Callable[[Any, Any], Any]


@pytest.mark.parametrize(
    ("role", "handler", "why"),
    [
        ("step", three, "exactly a message and the working set"),
        ("step", unannotated, "annotate 'order'"),
        ("step", speechless, "annotate 'return'"),
        ("step", anything, "no message of its own"),
        ("step", whatever, "no message of its own"),
        ("step", elsewhere, "not on Pantry"),
        ("step", either, "no message of its own"),
        ("step", commands, "may not say FillShelf"),
        ("step", rumour, "must name who says it"),
        ("learns", unsafe, "frozen"),
        ("step", baked, "hears a Event, not CakeBaked"),
        ("pivot", baked, "hears a Event, not CakeBaked"),
        ("retryable", baked, "hears a Event, not CakeBaked"),
        ("command", baked, "hears a Command, not CakeBaked"),
        ("timer", baked, "hears a Timer, not CakeBaked"),
        ("answer", sample_service.begin_tasting, "hears a Result, not BeginTasting"),
        ("learns", sample_service.fill_shelf, "hears a Event, not FillShelf"),
    ],
)
def test_a_signature_that_does_not_tell_the_saga_is_refused(role: str, handler: Plant, why: str) -> None:
    """Each of these plants raises TypeError at import, with a sentence that says what is wrong."""
    with pytest.raises(TypeError, match=why):
        getattr(HandlerRegistry("pantry", Pantry), role)(handler)


def test_a_type_has_one_handler() -> None:
    """A second handler of a type is refused and names the first; so is another class of the same wire type."""
    on = sample_service.reactions()

    with pytest.raises(TypeError, match="hold_loaves"):
        on.learns(sample_service.hold_loaves)

    with pytest.raises(TypeError, match=r"bread\.ordered"):
        on.learns(twin)


def test_a_compensation_names_a_registered_step() -> None:
    """What undoes nothing known is refused: a function never registered, or one that is no step."""
    on = HandlerRegistry("pantry", Pantry)

    with pytest.raises(TypeError, match="hold_loaves"):
        on.compensates(sample_service.hold_loaves)
    on.learns(sample_service.want_cake)
    with pytest.raises(TypeError, match="want_cake"):
        on.compensates(sample_service.want_cake)


def test_a_working_set_is_a_frozen_dataclass_of_rows() -> None:
    """A second mutable attribute could not be rewound, and neither could a table put in place of another."""

    @dataclass(frozen=True, slots=True)
    class Leaky:
        holds: Rows[str, int]
        counts: dict[str, int] = field(default_factory=dict)

    @dataclass(slots=True)
    class Loose:
        holds: Rows[str, int]

    class Bare:
        pass

    for work in (Leaky, Loose, Bare):
        with pytest.raises(TypeError, match=work.__name__):
            HandlerRegistry("pantry", work)


def test_the_saga_is_read_from_signatures() -> None:
    """What a handler hears, says, and undoes is in its annotations; unions and tuples are flattened."""
    on = sample_service.reactions()
    edges = {r.name: (r.role, r.consumes, set(r.emits), r.compensates) for r in on.specs.values()}

    assert edges["hold_loaves"] == ("step", BreadOrdered, {LoavesHeld, LoavesShort}, None)
    assert edges["return_loaves"] == ("compensates", OrderDropped, {LoavesReturned}, "hold_loaves")
    assert edges["serve_meal"] == ("learns", MealOrdered, {DishServed, SoupServed}, None)
    assert edges["take_cake"] == ("answer", CakeBaked, {CakeReady, BakeCake}, None)
    assert edges["fill_shelf"] == ("command", FillShelf, {ShelfFilled}, None)
    assert on.topics() == on.subscribed() == ("order.events", "payment.events")
    assert set(on.consumes(Message)) >= {"bread.ordered", "cake_baked", "begin_tasting", "fill_shelf"}
    assert on.specs[BeginTasting].doc == "Begin when it is due."


def test_a_handler_says_only_what_it_declares() -> None:
    """An event the signature does not name is an error of the handler, not a record nobody knows of."""
    on = HandlerRegistry("pantry", Larder)

    def liar(order: BreadOrdered, larder: Larder) -> LoavesShort | None:
        return LoavesHeld(order.order_id, 1)  # type: ignore[return-value] # planted

    on.learns(liar)

    with pytest.raises(TypeError, match="liar said LoavesHeld"):
        on.dispatch(BreadOrdered("o-1"), Larder(Rows((), {})))
    assert on.dispatch(OrderDropped("o-1"), Larder(Rows((), {}))) == ()
