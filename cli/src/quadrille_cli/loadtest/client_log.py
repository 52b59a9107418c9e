"""Clients' log of a load run: each request with its key and answer, and what a client saw of orders meanwhile.

Lines of JSON as the auditor reads them (``quadrille audit run --clients FILE``; docs/audit.md). An answer that does not
say whether the order was taken is ``unknown``: none came, or the server failed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from quadrille_cli.client import Client, NoAnswerError
from quadrille_cli.loadtest.sender import Posted

LOOK_SECONDS = 0.5
LOOKED_AT = 50
REFUSED = range(400, 500)
OK = 200


class ClientLog:
    """A file that grows by a line a request and look; ``url`` is the order API's, looked at twice a second."""

    def __init__(self, path: Path, url: str) -> None:
        self._path, self._url = path, url
        self._file: IO[str]
        self._seen: dict[str, int] = {}
        self._writing, self._over = threading.Lock(), threading.Event()
        self._looking = threading.Thread(target=self._look, name="looking")

    def __enter__(self) -> Self:
        self._file = self._path.open("a", encoding="utf-8")
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looking.join()
        self._file.close()

    def note(self, run: str, one: Posted) -> None:
        """Write down what a request was answered; ``run`` begins its key, and names the client."""
        outcome = "accepted" if one.order_id else "refused" if _refused(one.refusal) else "unknown"
        line = {"client": run, "key": f"{run}-{one.number}", "outcome": outcome}
        line |= {"order_id": one.order_id} if one.order_id else {}
        self._write(line | ({"answer": one.refusal} if one.refusal else {}))

    def _look(self) -> None:
        """Look at the newest orders again and again, once more at the end; an answer that does not come is no look."""
        with Client(self._url) as api:
            while not self._over.wait(LOOK_SECONDS):
                self._see(api)
            self._see(api)

    def _see(self, api: Client) -> None:
        try:
            page = api.ask("GET", f"/v1/orders?limit={LOOKED_AT}")
        except NoAnswerError:
            return
        for order in page.body["orders"] if page.status == OK else ():
            version = len(order["history"])
            if self._seen.get(order["order_id"]) != version:
                self._seen[order["order_id"]] = version
                told = {"client": "looker", "order_id": order["order_id"], "outcome": "seen"}
                self._write(told | {"status": order["status"], "version": version})

    def _write(self, line: Mapping[str, object]) -> None:
        with self._writing:
            self._file.write(json.dumps(line) + "\n")


def _refused(answer: str) -> bool:
    """Tell whether an answer says that the order was not taken."""
    return answer.isdecimal() and int(answer) in REFUSED
