"""Fuzzing of a served API by schemathesis: no answer its description does not name, no 5xx, nothing invalid accepted.

This module is also the hook schemathesis loads: it tells a refusal of valid data that no schema can foresee (a key used
for another body, a stale ETag, a strange cursor) from one that is a mistake.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, Response

UNFORESEEN = frozenset(
    {"idempotency-key-reused", "invalid-cursor", "version-mismatch", "precondition-required"}
    | set(os.environ.get("FUZZ_UNFORESEEN", "").split())
)
_REFUSED, _MISSING, _FAULT = 400, 404, 500


@schemathesis.check
def valid_data_is_taken(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Valid data is refused only for what no schema can say."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if _REFUSED <= response.status_code < _FAULT and response.status_code != _MISSING:
        slug = str(response.json().get("type", "")).rpartition("/")[2]
        errors = [error["code"] for error in response.json().get("errors", ())]
        if errors == ["amount_too_large"]:  # the sum of products
            return
        assert slug in UNFORESEEN, f"valid data was refused: {slug}"  # noqa: S101 - how a check fails


def fuzz_api(url: str, seconds: int, folder: Path, unforeseen: Iterable[str] = (), key: str = "") -> str:
    """Run every phase on valid and invalid data, so long at most; return the report, raise AssertionError on a finding.

    The same service gets the same requests in every run; ``folder`` is where schemathesis keeps its files.
    ``unforeseen`` are the service's own problems with data that its description calls valid; ``key`` is an API key,
    without which, and with another, nothing may be answered.
    """
    ran = subprocess.run(  # noqa: S603 - our own arguments
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--no-color",
            "--max-time", str(seconds), "--generation-deterministic", "--continue-on-failure",
            "--exclude-checks", "positive_data_acceptance", "--warnings", "off",
            *(("--header", f"Authorization: Bearer {key}") if key else ()),
            "--exclude-path-regex", "/stream$",  # an answer that ends when its saga does: it has tests of its own
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": __name__, "FUZZ_UNFORESEEN": " ".join(unforeseen)},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise AssertionError(ran.stdout[-8000:] + ran.stderr[-2000:])
    return ran.stdout
