"""Strict JSON, as RFC 8259 and I-JSON mean it: one reading of a body, or a refusal with its position."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

DEPTH = 16
_LONE = re.compile("[\ud800-\udfff]")
_DIGITS = 4300  # where Python refuses to read an integer
_HUGE = 10**30  # stands for an integer longer than that: outside every range we accept


class MalformedJsonError(ValueError):
    """The text is no JSON we read; ``position`` is a character offset, or None where none can be told."""

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.position = reason, position


def loads(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a JSON text in UTF-8.

    Raises MalformedJsonError for bytes not UTF-8, a duplicate member, NaN or Infinity, a lone surrogate, more than 16
    levels, and whatever is not JSON.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_members, parse_constant=_constant, parse_int=_integer, parse_float=_number
        )
    except UnicodeDecodeError as error:
        place = len(body[: error.start].decode("utf-8"))
        raise MalformedJsonError(reason="not UTF-8", position=place) from None
    except json.JSONDecodeError as error:
        raise MalformedJsonError(error.msg, error.pos) from None
    except RecursionError:
        raise MalformedJsonError(_too_deep()) from None
    if body.count(b"[") + body.count(b"{") > DEPTH:
        _check_depth(value, DEPTH)
    if b"\\u" in body:
        _check_surrogates(value)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"duplicate member {json.dumps(twice[:64])}"
        raise MalformedJsonError(message)
    return members


def _constant(name: str) -> NoReturn:
    message = f"{name} is no JSON number"
    raise MalformedJsonError(message)


def _integer(digits: str) -> int:
    return int(digits) if len(digits) < _DIGITS else _HUGE


def _number(text: str) -> int | float:
    """Return 2.0 as the integer it is (JSON Schema, 6.1.1), where a float holds integers exactly."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _too_deep() -> str:
    return f"nested deeper than {DEPTH} levels"


def _check_depth(value: object, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if left == 0:
        raise MalformedJsonError(_too_deep())
    for part in value.values() if isinstance(value, dict) else value:
        _check_depth(part, left - 1)


def _check_surrogates(value: object) -> None:
    if isinstance(value, str):
        if _LONE.search(value):
            message = "a lone surrogate is no character"
            raise MalformedJsonError(message)
    elif isinstance(value, list):
        for part in value:
            _check_surrogates(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            _check_surrogates(name)
            _check_surrogates(part)
