"""What commands print: tables within their columns that drop nothing, ages, amounts, and the ends of ids."""

from __future__ import annotations

import uuid

import pytest
import typer

from quadrille_cli.commands.shared import an_id, named
from quadrille_cli.terminal import age, money, short, table

WORDS = "Kafka: the broker does not answer since 21:43:49, and what is said waits in the outbox until it does again"


def test_a_table_folds_its_last_column_and_drops_nothing() -> None:
    """Every word of a note that is too long stands in lines of at most 80 columns, below its own column."""
    shown = list(table(("process", "since", "note"), [("order-worker", "10m", WORDS), ("kafka", "3h", "")]))

    assert max(map(len, shown)) <= 80
    assert [line[:12].strip() for line in shown if line[:1] != " "] == ["process", "order-worker", "kafka"]
    assert " ".join(" ".join(shown[1:-1]).split()) == f"order-worker 10m {WORDS}"


def test_a_wide_table_is_as_wide_as_what_is_in_it() -> None:
    """Asked to be wide, a row is a line."""
    assert len(list(table(("a", "note"), [("1", WORDS), ("2", WORDS)], wide=True))) == 3


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0s"), (59, "59s"), (600, "10m"), (3 * 3600 + 1, "3h"), (86_400 * 2.9, "2d")]
)
def test_times_are_one_number_and_a_unit(seconds: float, shown: str) -> None:
    """An age is rounded down to the largest unit of which there is one."""
    assert age(seconds) == shown


def test_amounts_are_as_people_write_them() -> None:
    """Minor units become units, where a currency has minor ones."""
    assert (money(2500, "EUR"), money(123_456_789, "EUR"), money(980, "JPY")) == (
        "25.00 EUR", "1,234,567.89 EUR", "980 JPY",
    )  # fmt: skip


def test_the_only_id_that_ends_so_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """A unique end is the id; several are listed and exit 2; none exits 5; a whole id needs no list."""
    one = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
    other = "01a1fd62-57f0-7eeb-be96-e59ce41f9cb1"

    assert named("ID", an_id("ID", "…E40F9CB1 "), [one, other]) == one
    assert named("ID", short(one), [one, other]) == one
    assert named("ID", str(whole := uuid.uuid4()), []) == str(whole)
    with pytest.raises(typer.BadParameter, match=f"(?s)2 ids.*{one}.*{other}") as refused:
        named("ID", "9cb1", [one, other])
    assert refused.value.exit_code == 2
    with pytest.raises(typer.Exit) as unknown:
        named("ID", "0000", [one])
    assert (unknown.value.exit_code, "0000" in capsys.readouterr().err) == (5, True)


@pytest.mark.parametrize("text", ["cb1", "9cg6", "", "an order", "…", "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1f"])
def test_what_is_no_end_of_an_id_is_refused(text: str) -> None:
    """Fewer than four characters, or others than an id has, are wrong usage."""
    with pytest.raises(typer.BadParameter):
        an_id("ID", text)
