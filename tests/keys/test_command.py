"""`quadrille keys`: a key is shown once, the file has no secret, what cannot be done is told with its way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quadrille.keys import Keyring, read_keys
from quadrille_cli import credentials, explain
from quadrille_cli.client import Client, NoAnswerError
from quadrille_cli.services import SCOPES


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    command = [sys.executable, "-I", "-X", "utf8", "-m", "quadrille_cli", *words]
    known = {name: value for name, value in os.environ.items() if not name.startswith("QUADRILLE_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**known, **(env or {})})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the keys are to be."""
    return tmp_path / "keys" / "keys.json"


def test_a_key_lives_from_new_to_revoke(file: Path) -> None:
    """Made, it lets in; listed, it is not told; revoked, it lets nobody in, and its owner's other key goes on."""
    made = run("keys", "new", "--owner", "acme", "--scope", "orders:*", "--file", str(file))
    other = run("keys", "new", "--owner", "acme", "--scope", "ops:read", "--expires", "never", "-o", "json",
                "--env", "test", "--file", str(file))  # fmt: skip
    token, second = made.stdout.strip(), json.loads(other.stdout)
    assert (made.returncode, other.returncode) == (0, 0)
    assert second["key"].startswith("qk_test_")
    assert token not in made.stderr
    principal = Keyring(file, 50).find(token)
    assert principal is not None
    assert principal.scopes == {"orders:read", "orders:write", "orders:cancel"}

    listed = run("keys", "list", env={"QUADRILLE_KEYS_FILE": str(file)})
    for text in (token, second["key"]):
        assert text.rpartition("_")[2] not in listed.stdout + file.read_text()
    assert [key["state"] for key in json.loads(run("keys", "list", "--file", str(file), "-o", "json").stdout)] == [
        "live", "live",
    ]  # fmt: skip

    revoked = run("keys", "revoke", token, "--file", str(file))  # the whole key is taken for its id
    assert "acme has 1 other key" in revoked.stdout
    assert token not in revoked.stdout + revoked.stderr
    assert "revoked already" in run("keys", "revoke", principal.key_id, "--file", str(file)).stdout
    ring = Keyring(file, 50)
    assert ring.find(token) is None
    assert ring.find(second["key"]) is not None


def test_what_makes_no_key_is_refused(file: Path) -> None:
    """An owner, scope, time or environment that is none; no file named; a file that is none: exit code and way out."""
    good = ["keys", "new", "--owner", "a", "--scope", "admin"]
    for words, code, said in (
        ([*good[:3], "a b", *good[4:], "--file", str(file)], 2, "at most 64 letters"),
        ([*good[:5], "orders", "--file", str(file)], 2, "orders:read, orders:write"),
        ([*good, "--expires", "3y", "--file", str(file)], 2, "or never"),
        ([*good, "--expires", "0d", "--file", str(file)], 2, "more than nothing"),
        ([*good, "--env", "UP", "--file", str(file)], 2, "lower case"),
        ([*good, "--data", str(file.parent)], 7, "up --detach --set AUTH=keys"),
        (["keys", "list", "--file", str(file)], 7, "No such file"),
        (["keys", "revoke", "5f0c1a9be2d4", "--file", str(file)], 5, "keys list"),
    ):
        done = run(*words)
        assert (done.returncode, said in done.stderr) == (code, True), (words, done.stderr)
    file.write_text("{")
    broken = run(*good, "--file", str(file))
    assert (broken.returncode, "correct it" in broken.stderr, file.read_text()) == (7, True, "{")


def test_two_at_once_lose_nothing(file: Path) -> None:
    """Commands that change the file at the same time do so one after the other."""
    with ThreadPoolExecutor(4) as hands:
        made = list(hands.map(
            lambda n: run("keys", "new", "--owner", f"o{n}", "--scope", SCOPES[n], "--file", str(file)), range(8)
        ))  # fmt: skip
    assert [one.returncode for one in made] == [0] * 8
    assert {key.owner for key in read_keys(file)} == {f"o{n}" for n in range(8)}


def test_a_key_goes_where_it_was_named_for_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """An address nobody named gets no key; `--explain` names the variable, and an error tells nothing of it."""
    key = "qk_test_5f0c1a9be2d4_" + "7" * 64
    credentials.remember(["http://127.0.0.1:9"], key)
    explain.Explained.on = True
    try:
        assert credentials.shown_to("http://127.0.0.1:9/") == key
        assert not credentials.shown_to("http://127.0.0.1:90")
        assert not credentials.shown_to("http://127.0.0.1:9.example")
        with Client("http://127.0.0.1:9") as client, pytest.raises(NoAnswerError) as away:
            client.ask("POST", "/v1/orders", {})
    finally:
        explain.Explained.on = False
        credentials.remember(["http://127.0.0.1:9"], "")
    told = capsys.readouterr().err
    assert '-H "Authorization: Bearer $QUADRILLE_KEY"' in told
    assert "777" not in told + str(away.value) + repr(away.value)


def test_an_order_api_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    """An address without a scheme is refused, one where nothing answers is named; the key is in no text."""
    key = "qk_test_5f0c1a9be2d4_" + "7" * 64
    env = {"QUADRILLE_KEY": key, "QUADRILLE_DATA": str(tmp_path)}
    for url, code, said in (("orders.shop.example", 2, "https://"), ("http://127.0.0.1:9", 7, "http://127.0.0.1:9")):
        for words in (["orders", "list"], ["orders", "place"], ["webhooks", "list"]):
            done = run(*words, "--url", url, env=env)
            assert (done.returncode, said in done.stderr, "777" in done.stderr) == (code, True, False), done.stderr
    operator = run("orders", "cancel", "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", "--operator", "--reason", "x",
                   env=env | {"QUADRILLE_URL": "http://127.0.0.1:9"})  # fmt: skip
    assert (operator.returncode, "ops port" in operator.stderr) == (2, True)
