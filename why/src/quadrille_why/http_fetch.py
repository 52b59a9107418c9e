"""A fetcher over HTTP with nothing but the standard library: what the command line asks by, and the console may too."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from quadrille_why.asking import AwayError, Fetch


def over_http(url_of: Callable[[str], str], headers: Mapping[str, str] | None = None) -> Fetch:
    """Return a fetcher; ``url_of`` gives the base of a process's ops port, and raises KeyError for one there is not."""

    def fetch(process: str, path: str, seconds: float) -> tuple[int, Any]:
        try:
            place = urlsplit(url_of(process))
        except KeyError:
            message = "no address is known"
            raise AwayError(message) from None
        where = f"{place.hostname}:{place.port}"
        asking = http.client.HTTPConnection(place.hostname or "", place.port, timeout=seconds)
        try:
            asking.request("GET", path, headers={"Accept": "application/json", **(headers or {})})
            answer = asking.getresponse()
            return answer.status, json.loads(answer.read())
        except TimeoutError:
            message = f"no answer within {seconds:.1f} s, {where}"
            raise AwayError(message) from None
        except OSError as refused:
            message = f"{(refused.strerror or type(refused).__name__).lower()}, {where}"
            raise AwayError(message) from None
        except (http.client.HTTPException, ValueError) as odd:
            message = f"no answer in HTTP and JSON ({type(odd).__name__}), {where}"
            raise AwayError(message) from None
        finally:
            asking.close()

    return fetch
