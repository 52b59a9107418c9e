"""The registry: the saga is read from signatures, and what cannot be read is refused at import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from chassis.registry import Reactions
from chassis.rows import Rows
from chassis.tests import pantry
from chassis.tests.pantry import Pantry
from chassis.tests.pantry_words import (
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
from chassis.words import Fact, Message


@dataclass(frozen=True, slots=True)
class Larder:
    """Another working set."""

    holds: Rows[str, int]


@dataclass(frozen=True, slots=True)
class Homeless(Fact):
    """A fact whose producer nobody named."""

    order_id: str


@dataclass(slots=True)
class Mutable(Fact, source="order"):
    """A fact a handler could change."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Namesake(Fact, source="payment"):
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


def anything(order: Fact, pantry: Pantry) -> None:
    """Hear a base class."""


def whatever(order: BreadOrdered, pantry: Pantry) -> Fact | None:
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
    """Hear a fact without a topic."""


def unsafe(order: Mutable, pantry: Pantry) -> None:
    """Hear a fact that can be changed."""


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
        ("step", baked, "hears a Fact, not CakeBaked"),
        ("pivot", baked, "hears a Fact, not CakeBaked"),
        ("retryable", baked, "hears a Fact, not CakeBaked"),
        ("command", baked, "hears a Command, not CakeBaked"),
        ("timer", baked, "hears a Timer, not CakeBaked"),
        ("answer", pantry.begin_tasting, "hears a Answer, not BeginTasting"),
        ("learns", pantry.fill_shelf, "hears a Fact, not FillShelf"),
    ],
)
def test_a_signature_that_does_not_tell_the_saga_is_refused(role: str, handler: Plant, why: str) -> None:
    """Each of these plants raises TypeError at import, with a sentence that says what is wrong."""
    with pytest.raises(TypeError, match=why):
        getattr(Reactions("pantry", Pantry), role)(handler)


def test_a_type_has_one_handler() -> None:
    """A second handler of a type is refused and names the first; so is another class of the same wire type."""
    on = pantry.reactions()

    with pytest.raises(TypeError, match="hold_loaves"):
        on.learns(pantry.hold_loaves)

    with pytest.raises(TypeError, match=r"bread\.ordered"):
        on.learns(twin)


def test_a_compensation_names_a_registered_step() -> None:
    """What undoes nothing known is refused: a function never registered, or one that is no step."""
    on = Reactions("pantry", Pantry)

    with pytest.raises(TypeError, match="hold_loaves"):
        on.compensates(pantry.hold_loaves)
    on.learns(pantry.want_cake)
    with pytest.raises(TypeError, match="want_cake"):
        on.compensates(pantry.want_cake)


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
            Reactions("pantry", work)


def test_the_saga_is_read_from_signatures() -> None:
    """What a handler hears, says, and undoes is in its annotations; unions and tuples are flattened."""
    on = pantry.reactions()
    edges = {r.name: (r.role, r.hears, set(r.says), r.undoes) for r in on.reactions.values()}

    assert edges["hold_loaves"] == ("step", BreadOrdered, {LoavesHeld, LoavesShort}, None)
    assert edges["return_loaves"] == ("compensates", OrderDropped, {LoavesReturned}, "hold_loaves")
    assert edges["serve_meal"] == ("learns", MealOrdered, {DishServed, SoupServed}, None)
    assert edges["take_cake"] == ("answer", CakeBaked, {CakeReady, BakeCake}, None)
    assert edges["fill_shelf"] == ("command", FillShelf, {ShelfFilled}, None)
    assert on.topics() == ("order.events", "payment.events")
    assert set(on.hears(Message)) >= {"bread.ordered", "cake_baked", "begin_tasting", "fill_shelf"}
    assert on.reactions[BeginTasting].doc == "Begin when it is due."


def test_a_handler_says_only_what_it_declares() -> None:
    """A fact the signature does not name is an error of the handler, not a record nobody knows of."""
    on = Reactions("pantry", Larder)

    def liar(order: BreadOrdered, larder: Larder) -> LoavesShort | None:
        return LoavesHeld(order.order_id, 1)  # type: ignore[return-value] # planted

    on.learns(liar)

    with pytest.raises(TypeError, match="liar said LoavesHeld"):
        on.react(BreadOrdered("o-1"), Larder(Rows((), {})))
    assert on.react(OrderDropped("o-1"), Larder(Rows((), {}))) == ()
