"""Behind a command: with `--explain`, anywhere on the line, the calls of our APIs that it makes, as curl would."""

from __future__ import annotations

import json
import shlex
import sys

from quadrille_cli.credentials import VARIABLE

OPTION = "--explain"
CURL = "curl -s"


class Explained:
    """Whether calls are told; one for the process."""

    on = False


def asked_for(words: list[str]) -> list[str]:
    """Return the words of a command line without the option, and note it; after `--` it is a word like any other."""
    end = words.index("--") if "--" in words else len(words)
    Explained.on = OPTION in words[:end]
    return [word for word in words[:end] if word != OPTION] + words[end:]


def tell(
    method: str, url: str, body: object = None, headers: dict[str, str] | None = None, *, keyed: bool = False
) -> None:
    """Write a call to stderr as a line that can be typed; a key is named, never told."""
    if Explained.on:
        key = f' -H "Authorization: Bearer ${VARIABLE}"' if keyed else ""
        sys.stderr.write(f"{call(method, url, body, headers or {})}{key}\n")


def call(method: str, url: str, body: object, headers: dict[str, str]) -> str:
    """Return a call as a curl command."""
    words = [] if method == "GET" else ["-X", method]
    words.append(url)
    if body is not None:
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False)
        headers = {"Content-Type": "application/json", **headers}
        words += ["-d", text]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    return f"{CURL} {shlex.join(words)}"
