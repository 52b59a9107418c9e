"""What the console's endpoints and pages work with: the chassis' API over its database, and its neighbours."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request

from console import reads
from console.findings.reconciler import Reconciler
from console.neighbours import Neighbours
from console.settings import ConsoleSettings
from quadrille.web import Api, ProcessContext
from quadrille_why.case import SERVICES

LOOK_SECONDS = 0.4
TICK_SECONDS = 5.0
STREAM_SECONDS = 900.0
AT_ONCE = 200


class ConsoleApi(Api):
    """The chassis' API with the console's settings, its neighbours, and news of what was heard."""

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(context)
        self.told = cast("ConsoleSettings", context.settings)
        ops = {**self.told.ops, "console-all": f"http://{self.told.ops_bind}"}
        self.neighbours = Neighbours(ops, self.told.apis, self.told.ops_key)
        self.connect, self.loopback = context.connect, context.settings.api_bind.loopback
        self._ends = context.stop
        self.reconciler = self._reconciler()
        self._heads: dict[str | None, tuple[float, int]] = {}
        self._looking = asyncio.Lock()

    def _reconciler(self) -> Reconciler | None:
        """Return the reconciler; None where not all that it asks are known."""
        if not all(f"{service}-worker" in self.neighbours.ops for service in SERVICES):
            return None
        told, asking = self.told, self.neighbours
        return Reconciler(
            self.connect, asking.fetch, asking.say, self._ends, told.reconcile_every, told.reconcile_orders, told.keep
        )

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self.reconciler and self.told.reconcile_every:
            threading.Thread(target=self.reconciler.run, name="reconciler", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.neighbours.close()
        await super().__aexit__(kind, error, trace)

    async def newest(self, key: str | None = None) -> int:
        """Return the number of the newest event, of a key or of all, as of a moment ago: one look serves all."""
        async with self._looking:
            looked, number = self._heads.get(key, (0.0, 0))
            if time.monotonic() - looked > LOOK_SECONDS:
                number = await (self.read(reads.head_of, key) if key else self.read(reads.head))
                self._heads = {k: v for k, v in self._heads.items() if time.monotonic() - v[0] < TICK_SECONDS}
                self._heads[key] = time.monotonic(), number
        return number

    async def news(self, key: str | None, known: int | None = None) -> AsyncIterator[int | None]:
        """Yield the newest number whenever it has changed, and None every five seconds; ends with the process."""
        over = time.monotonic() + STREAM_SECONDS
        ticked = time.monotonic()
        while not self._ends.is_set() and time.monotonic() < over:
            number = known
            with suppress(HTTPException):  # the database is away for a moment: the stream outlives it
                number = await self.newest(key)
            if number != known:
                known, ticked = number, time.monotonic()
                yield number
            elif time.monotonic() - ticked > TICK_SECONDS:
                ticked = time.monotonic()
                yield None
            await asyncio.sleep(LOOK_SECONDS)


def console_of(request: Request) -> ConsoleApi:
    """Return the console's API of the app a request came to."""
    return cast("ConsoleApi", request.app.state.api)
