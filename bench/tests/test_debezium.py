"""Debezium's loop is committed compiled, for the JRE of the stack has no compiler."""

from __future__ import annotations

import hashlib

from bench.cases.relays import ENGINE


def test_the_classes_were_compiled_from_the_source_beside_them() -> None:
    """The list of sums is written when it is compiled (bench/README.md): a source changed since is not what runs."""
    lines = (ENGINE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [*ENGINE.glob("*.java"), *ENGINE.glob("*.class")]
    assert listed == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
