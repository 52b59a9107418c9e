"""API keys: who calls, told by a secret of which a file keeps the SHA-256 alone; the file is read again as it changes.

Guarantees: a key that is unknown, expired or revoked is nobody's; a file that cannot be read leaves the keys as they
were, says so, and lets nobody in who was not; no secret is in any text of this module.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeAlias

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from quadrille.observability.degraded import Degraded
from quadrille.observability.readiness import NotReadyError
from quadrille.settings import PREFIX, Secret, Settings, SettingsError

ADMIN = "admin"
"""The scope that holds every other one."""
LOOK_SECONDS = 1.0  # between two looks whether the file has changed
SECOND = 1_000_000_000
_TOKEN = re.compile(r"qk_[a-z0-9]{1,16}_([0-9a-f]{12})_[0-9a-f]{64}")
ENVIRONMENT = re.compile(r"[a-z0-9]{1,16}")
log = structlog.get_logger()
Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
Scope = Annotated[str, Field(pattern=r"^([a-z]+:[a-z]+|admin)$")]


class KeyFileError(Exception):
    """A file of keys cannot be read; the text says where and why, and quotes nothing of it."""


class ApiKey(BaseModel):
    """A key as it is kept: whose it is, what it may, how long; the secret itself is not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    owner: Owner
    scopes: frozenset[Scope] = Field(min_length=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def live(self, now: datetime) -> bool:
        """Tell whether it lets anybody in: not revoked, nor expired."""
        return (self.expires is None or now < self.expires) and (self.revoked is None or now < self.revoked)


class KeyFile(BaseModel):
    """The document of a file of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[ApiKey, ...]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: whose the things are that are made, and what may be asked for; ``key_id`` names the key, no secret."""

    owner: str
    scopes: frozenset[str]
    key_id: str = ""

    def may(self, scope: str) -> bool:
        """Tell whether a scope was given."""
        return scope in self.scopes or ADMIN in self.scopes


LOCAL = Principal("local", frozenset({ADMIN}))
"""Whoever asks while no key is wanted: somebody of this machine."""
ANONYMOUS = Principal("", frozenset())
"""Whoever has shown no key."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a key's quota: requests in this second; none if ``wait`` seconds are to pass before the next."""

    quota: int
    left: int
    wait: int

    @property
    def headers(self) -> dict[str, str]:
        """The fields that tell it (draft-ietf-httpapi-ratelimit-headers)."""
        return {"RateLimit-Policy": f'"key";q={self.quota};w=1', "RateLimit": f'"key";r={self.left};t={self.wait or 1}'}


def mint(
    owner: str, scopes: Collection[str], lives: timedelta | None, environment: str = "live"
) -> tuple[Secret, ApiKey]:
    """Return a new key's text, to be shown once, and what is kept of it; raises ValueError for what makes none."""
    if not ENVIRONMENT.fullmatch(environment):
        message = "an environment is 1 to 16 lower case letters and digits"
        raise ValueError(message)
    identity, now = secrets.token_hex(6), datetime.now(UTC).replace(microsecond=0)
    token = Secret(f"qk_{environment}_{identity}_{secrets.token_hex(32)}")
    try:
        kept = ApiKey(
            id=identity, sha256=_hashed(token).hex(), owner=owner, scopes=frozenset(scopes), created=now,
            expires=None if lives is None else now + lives,
        )  # fmt: skip
    except ValidationError as wrong:
        raise ValueError(_told(wrong)) from None
    return token, kept


def read_keys(file: Path) -> Sequence[ApiKey]:
    """Return the keys of a file; raises KeyFileError."""
    try:
        keys = KeyFile.model_validate_json(file.read_bytes()).keys
    except OSError as refused:
        raise KeyFileError(refused.strerror or type(refused).__name__) from None
    except ValidationError as wrong:
        raise KeyFileError(_told(wrong)) from None
    if len({key.id for key in keys}) < len(keys):
        message = "two keys have one id"
        raise KeyFileError(message)
    return keys


def document_of(keys: Sequence[ApiKey]) -> str:
    """Return the text of a file of keys; scopes stand in order."""
    shown = [key.model_dump(mode="json", exclude_none=True) | {"scopes": sorted(key.scopes)} for key in keys]
    return json.dumps({"keys": shown}, indent=2) + "\n"


def keyring_of(settings: Settings) -> Keyring | None:
    """Return the keys that the settings name, None where no key is wanted; raises SettingsError."""
    if settings.auth != "keys" or settings.keys_file is None:
        return None
    try:
        return Keyring(settings.keys_file, settings.rate_per_key)
    except KeyFileError as broken:
        raise SettingsError(
            found=f"{PREFIX}KEYS_FILE={settings.keys_file}: {broken}",
            wanted="a file of keys, readable by this process",
            fix=f"quadrille keys new --file {settings.keys_file} --owner NAME --scope SCOPE",
        ) from None


Mark: TypeAlias = tuple[int, int, int, int]


@dataclass(slots=True)
class _Known:
    key: ApiKey
    principal: Principal
    digest: bytes
    booked: int = 0  # until when, in nanoseconds, its quota is spent: a request books a share of a second


@dataclass(slots=True)
class _Seen:
    mark: Mark | None = None
    keys: Mapping[str, _Known] = field(default_factory=dict)


class Keyring:
    """The keys of a file as it stands, looked at once a second at most; used by any thread.

    ``rate`` is how many requests a second each key may make. Raises KeyFileError when made on a file without keys.
    """

    def __init__(self, file: Path, rate: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.file, self.rate = file, rate
        self._share, self._clock = SECOND // rate, clock
        self._lock, self._degraded = threading.Lock(), Degraded("keys")
        self._next = clock() + int(LOOK_SECONDS * SECOND)
        self._trouble = ""
        self._seen = _Seen(_mark(file), _known(read_keys(file), {}))

    def find(self, token: str) -> Principal | None:
        """Return whose key this is; None if it is nobody's, or its time is over."""
        self._look()
        if not (shape := _TOKEN.fullmatch(token)):
            return None
        known = self._seen.keys.get(shape[1])
        same = hmac.compare_digest(_hashed(token), known.digest if known else bytes(32))
        return known.principal if known and same and known.key.live(datetime.now(UTC)) else None

    def still(self, principal: Principal) -> bool:
        """Tell whether the key somebody came with would let him in now."""
        self._look()
        known = self._seen.keys.get(principal.key_id)
        return known is not None and known.principal == principal and known.key.live(datetime.now(UTC))

    def spend(self, principal: Principal) -> Allowance:
        """Count a request against its key's quota, unless there is nothing left of it."""
        now = self._clock()
        with self._lock:
            known = self._seen.keys.get(principal.key_id)
            if known is None:  # gone since it was found
                return Allowance(self.rate, 0, 1)
            booked = max(known.booked, now) + self._share
            over = booked - now - self._share * self.rate
            if over > 0:
                return Allowance(self.rate, 0, math.ceil(over / SECOND))
            known.booked = booked
        return Allowance(self.rate, -over // self._share, 0)

    def check(self) -> None:
        """Raise NotReadyError while the file cannot be read: the keys are those of before."""
        self._look()
        if self._trouble:
            message = f"{self._trouble}: the keys are those of before; mend the file"
            raise NotReadyError(message)

    def _look(self) -> None:
        if self._clock() < self._next:
            return
        with self._lock:
            if self._clock() < self._next:  # another thread has looked
                return
            self._next = self._clock() + int(LOOK_SECONDS * SECOND)
            try:
                mark = _mark(self.file)
                if mark == self._seen.mark:
                    self._mended()
                    return
                found = read_keys(self.file)
            except KeyFileError as broken:
                self._trouble = f"{self.file} cannot be read: {broken}"
                self._degraded.lost(self._trouble)
                return
            self._seen = _Seen(mark, _known(found, self._seen.keys))
            self._mended()
        log.info("keys read", count=len(found))

    def _mended(self) -> None:
        self._trouble = ""
        self._degraded.back()


def _known(keys: Sequence[ApiKey], before: Mapping[str, _Known]) -> dict[str, _Known]:
    found = {}
    for key in keys:
        booked = before[key.id].booked if key.id in before else 0
        found[key.id] = _Known(key, Principal(key.owner, key.scopes, key.id), bytes.fromhex(key.sha256), booked)
    return found


def _mark(file: Path) -> Mark:
    """Return what changes when a file does; raises KeyFileError."""
    try:
        seen = file.stat()
    except OSError as refused:
        raise KeyFileError(refused.strerror or type(refused).__name__) from None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _told(wrong: ValidationError) -> str:
    """Return the first error without what was given: somebody may have written a secret there."""
    error = wrong.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else error["msg"]
