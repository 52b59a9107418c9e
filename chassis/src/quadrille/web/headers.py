"""Request headers on several lines: lists are one list, and what has one value has it once (RFC 9110, 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
LISTS = frozenset(
    b"accept accept-charset accept-encoding accept-language cache-control connection content-encoding "
    b"content-language expect forwarded if-match if-none-match prefer te trailer transfer-encoding upgrade via "
    b"x-forwarded-for".split()
)
SINGLE = frozenset(
    b"authorization content-length content-type date from host idempotency-key if-modified-since if-range "
    b"if-unmodified-since last-event-id max-forwards origin proxy-authorization range referer user-agent".split()
)


class RepeatedHeaderError(ValueError):
    """A header that has one value came with two different ones, or Host came twice; ``header`` is its name."""

    def __init__(self, name: bytes) -> None:
        self.header = "-".join(part.capitalize() for part in name.decode("ascii").split("-"))
        super().__init__(self.header)


def settled(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return headers of which those that are lists stand once, whole; raises RepeatedHeaderError.

    Names are in lower case. What is neither a list nor of one value, as far as is known here, stays as it is.
    """
    found = [(name, value.strip(b" \t")) for name, value in headers]
    if len({name for name, _ in found}) == len(found):
        return found
    values: dict[bytes, list[bytes]] = {}
    for name, value in found:
        values.setdefault(name, []).append(value)
    settled: list[tuple[bytes, bytes]] = []
    for name, told in values.items():
        if name in SINGLE and (len(set(told)) > 1 or (name == b"host" and len(told) > 1)):
            raise RepeatedHeaderError(name)
        if name in SINGLE:
            settled.append((name, told[0]))
        elif name in LISTS:
            settled.append((name, b", ".join(told)))
        else:
            settled += ((name, one) for one in told)
    return settled
