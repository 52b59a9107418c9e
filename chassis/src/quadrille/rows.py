"""Rows: what one batch sees of a table, immutable, with an undo journal, so that a failed handler leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")
_ABSENT = object()


class NotLoadedError(LookupError):
    """A handler read a row that ``store.load`` never asked for: absent and unknown differ."""


class Rows(Generic[K, V]):
    """The rows a batch may touch, by key; changes are journalled until the batch is saved.

    ``asked`` are the keys the store looked up, ``found`` the rows that exist; values must be immutable.
    """

    __slots__ = ("_asked", "_found", "_journal", "_now")

    def __init__(self, asked: Iterable[K], found: Mapping[K, V]) -> None:
        self._found: dict[K, V] = dict(found)
        self._now: dict[K, V] = dict(self._found)
        self._asked: set[K] = {*asked, *self._found}
        self._journal: list[tuple[K, object]] = []

    def get(self, key: K) -> V | None:
        """Return the row as it stands now, or None if there is none; raises NotLoadedError for a key not asked for."""
        if key not in self._asked:
            message = f"the store never asked for this row of {len(self._asked)}: add its key to load()"
            raise NotLoadedError(message)
        return self._now.get(key)

    def put(self, key: K, row: V) -> None:
        """Set the row; raises NotLoadedError for a key not asked for."""
        self._remember(key)
        self._now[key] = row

    def drop(self, key: K) -> None:
        """Remove the row; raises NotLoadedError for a key never asked for, KeyError for one that is not there."""
        self._remember(key)
        del self._now[key]

    def __iter__(self) -> Iterator[V]:
        return iter(self._now.values())

    def mark(self) -> int:
        """Return a place to rewind to."""
        return len(self._journal)

    def rewind(self, mark: int) -> None:
        """Undo every change made since the mark."""
        while len(self._journal) > mark:
            key, before = self._journal.pop()
            if before is _ABSENT:
                self._now.pop(key, None)
            else:
                self._now[key] = cast("V", before)

    @property
    def added(self) -> list[V]:
        """Rows to INSERT: not found at load, there now."""
        return [self._now[k] for k in self._touched() if k in self._now and k not in self._found]

    @property
    def changed(self) -> list[V]:
        """Rows to UPDATE: found at load and different now."""
        return [
            self._now[k]
            for k in self._touched()
            if k in self._now and k in self._found and self._now[k] != self._found[k]
        ]

    @property
    def dropped(self) -> list[K]:
        """Keys to DELETE: found at load, gone now."""
        return [k for k in self._touched() if k not in self._now and k in self._found]

    def _touched(self) -> Iterable[K]:
        return dict.fromkeys(key for key, _ in self._journal)

    def _remember(self, key: K) -> None:
        if key not in self._asked:
            message = "the store never asked for this row: add its key to load()"
            raise NotLoadedError(message)
        self._journal.append((key, self._now.get(key, _ABSENT)))
