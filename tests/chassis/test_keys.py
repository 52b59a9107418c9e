"""API keys: what is kept of one lets nobody in, a file that changes is heard, one that breaks opens nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quadrille import keys
from quadrille.keys import KeyFileError, Keyring
from quadrille.observability import degraded
from quadrille.observability.readiness import NotReadyError
from quadrille.settings import Settings, SettingsError
from tests.chassis.support.key_files import Watch, write

READ = ("orders:read",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a file of keys is to be."""
    return tmp_path / "keys.json"


def test_a_key_is_shown_once_and_kept_as_its_hash(file: Path) -> None:
    """A key's text has 256 random bits; the file has none of them; whoever shows the text is its owner."""
    token, kept = keys.mint("acme", ["orders:read", "orders:write"], timedelta(days=90), "test")
    write(file, kept)

    assert token.startswith(f"qk_test_{kept.id}_")
    secret = token.rpartition("_")[2]
    assert len(bytes.fromhex(secret)) == 32
    assert secret not in file.read_text()
    assert secret not in repr((token, kept))
    found = Keyring(file, 50).find(token)
    assert found is not None
    assert (found.owner, found.key_id) == ("acme", kept.id)
    assert found.may("orders:write")
    assert not found.may("orders:cancel")


def test_admin_holds_every_scope(file: Path) -> None:
    """`admin` is every scope, also one that a service has invented."""
    token, kept = keys.mint("root", ["admin"], None)
    write(file, kept)
    found = Keyring(file, 50).find(token)
    assert found is not None
    assert found.may("ops:replay")


def test_what_is_no_key_is_nobodys(file: Path) -> None:
    """Another secret, another environment, another id, something cut short or longer: each is unknown."""
    token, kept = keys.mint("acme", READ, None)
    other, _ = keys.mint("acme", READ, None)
    write(file, kept)
    ring = Keyring(file, 50)
    wrong = (
        other, token.replace("live", "test"), token[:-1], token + "0", token.upper(), "", "qk___", "é" * 90,
        f"qk_live_{kept.id}_{other.rpartition('_')[2]}", kept.sha256,
    )  # fmt: skip
    assert [ring.find(text) for text in wrong] == [None] * len(wrong)
    assert ring.find(token) is not None


def test_a_key_ends_when_it_expires_or_is_revoked(file: Path) -> None:
    """A key whose time is over, or that was revoked, is nobody's; the owner's other key goes on."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    (over, expired), (gone, revoked), (good, live) = (keys.mint("acme", READ, None) for _ in range(3))
    write(file, expired.model_copy(update={"expires": past}), revoked.model_copy(update={"revoked": past}), live)
    ring = Keyring(file, 50)
    assert (ring.find(over), ring.find(gone)) == (None, None)
    assert ring.find(good) is not None


def test_a_changed_file_is_heard_within_a_second(file: Path) -> None:
    """A key that was added lets in, one that was revoked no more, a second later at most; no process was restarted."""
    watch = Watch()
    (first, one), (second, two) = keys.mint("acme", READ, None), keys.mint("acme", READ, None)
    write(file, one)
    ring = Keyring(file, 50, watch)
    principal = ring.find(first)
    assert principal is not None

    write(file, one.model_copy(update={"revoked": datetime.now(UTC) - timedelta(seconds=1)}), two)
    assert (ring.find(first), ring.find(second)) == (principal, None)  # not looked again yet
    watch.pass_by(keys.LOOK_SECONDS)
    assert not ring.still(principal)
    assert ring.find(first) is None
    found = ring.find(second)
    assert found is not None
    assert found.owner == principal.owner


@pytest.mark.parametrize("broken", ["", "{", '{"keys": [{}]}', None])
def test_a_broken_file_keeps_the_keys_and_says_so(file: Path, broken: str | None) -> None:
    """A file that is cut short, wrong or gone opens nothing and shuts nobody out; that is told until it is mended.

    No text of it is repeated: somebody may have written a secret there.
    """
    watch = Watch()
    (first, one), (second, two) = keys.mint("acme", READ, None), keys.mint("acme", READ, None)
    write(file, one)
    ring = Keyring(file, 50, watch)
    ring.check()
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    watch.pass_by(keys.LOOK_SECONDS)
    with capture_logs() as lines:
        assert ring.find(first) is not None
        assert ring.find(second) is None
    assert [(line["event"], line["dependency"]) for line in lines] == [("degraded", "keys")]
    assert "keys" in degraded.shown()
    with pytest.raises(NotReadyError, match=r"cannot be read.*mend the file"):
        ring.check()

    write(file, one, two)
    watch.pass_by(keys.LOOK_SECONDS)
    assert ring.find(second) is not None
    ring.check()
    assert "keys" not in degraded.shown()


def test_a_start_on_no_keys_is_refused(file: Path) -> None:
    """Without its file a process does not start: what was found, wanted and the way out; never the text of the file."""
    settings = Settings.model_validate(
        {
            "database_url": "", "kafka_bootstrap": "x", "registry_url": "http://x", "auth": "keys", "keys_file": file,
        }
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"No such file.*quadrille keys new"):
        keys.keyring_of(settings)
    token, kept = keys.mint("acme", READ, None)
    document = json.loads(keys.document_of([kept]))
    document["keys"][0]["sha256"] = token
    file.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=r"keys\.0\.sha256") as refused:
        keys.keyring_of(settings)
    assert token not in str(refused.value)


def test_a_file_of_keys_is_read_strictly(file: Path) -> None:
    """Two keys of one id, a member nobody knows, an owner or scope that is none: refused by place."""
    _, kept = keys.mint("acme", READ, None)
    write(file, kept, kept)
    with pytest.raises(KeyFileError, match="one id"):
        keys.read_keys(file)
    changes: tuple[dict[str, object], ...] = (
        {"secret": "x"},
        {"owner": "a b"},
        {"scopes": ["orders"]},
        {"scopes": []},
        {"created": "today"},
    )
    for change in changes:
        document = json.loads(keys.document_of([kept]))
        document["keys"][0] |= change
        file.write_text(json.dumps(document))
        with pytest.raises(KeyFileError, match=f"keys.0.{next(iter(change))}"):
            keys.read_keys(file)


def test_a_quota_is_of_a_key_and_comes_back(file: Path) -> None:
    """So many requests in a second, then none; a share of a second later one more; another key has its own."""
    watch = Watch()
    (first, one), (second, two) = keys.mint("acme", READ, None), keys.mint("acme", READ, None)
    write(file, one, two)
    ring = Keyring(file, 50, watch)
    mine, other = ring.find(first), ring.find(second)
    assert mine is not None
    assert other is not None

    left = [ring.spend(mine).left for _ in range(50)]
    assert left == list(range(49, -1, -1))
    spent = ring.spend(mine)
    assert (spent.wait, spent.headers) == (1, {"RateLimit-Policy": '"key";q=50;w=1', "RateLimit": '"key";r=0;t=1'})
    assert ring.spend(other).left == 49
    watch.pass_by(0.02)
    assert [ring.spend(mine).wait for _ in range(2)] == [0, 1]
    watch.pass_by(10)
    assert ring.spend(mine).left == 49
