"""The settings of a process, read once: flag over ``QUADRILLE_*`` over ``quadrille.toml`` over default; or a refusal.

pydantic validates; the merging is ours, because pydantic-settings neither refuses an unknown variable nor says where
a value came from.
"""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from quadrille.observability.progress import Patience

PREFIX = "QUADRILLE_"
FILE = "quadrille.toml"
PUBLISHED = "off-published-on-loopback"  # a container binds to all of itself; its port is published on loopback only
# Names of the command line and the sandbox, which may stand in the same environment.
ELSEWHERE = frozenset(
    "CACHE DATA NO_AOT PROFILE SANDBOX_BIND SMTP_BIND SANDBOX_DATA URL KEY EVENTS_RETENTION".split()  # noqa: SIM905 - a list of words
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_LOGIN = re.compile(r"//[^/@\s]*@")
_BASE_URL = re.compile(r"https?://([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:\d+)?(/[^\s?#]*)?")
LONGEST_SECONDS = 36_500 * 86_400.0  # what a time may be moved by, and still be a time
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|kB|MB|GB|TB)")
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(Exception):
    """A process refuses to start: what was found, what is wanted, how to fix it; ``exit_code`` as in settings.md."""

    exit_code = 2

    def __init__(self, *, found: str, wanted: str, fix: str) -> None:
        super().__init__(f"found {found}; wanted {wanted}; fix: {fix}")
        self.found, self.wanted, self.fix = found, wanted, fix


class Secret(str):
    """A text that shows as ``***``; only code that needs it uses it as the text it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


class Bind(str):
    """An address to listen on, ``host:port``."""

    __slots__ = ()

    @property
    def host(self) -> str:
        """The host, an IPv6 address without its brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.rpartition(":")[2])

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_duration(text: object) -> timedelta:
    """Return the duration of ``250ms``, ``3s``, ``5m``, ``48h`` or ``7d``; raises ValueError."""
    if isinstance(text, timedelta):
        return text
    if not (found := _DURATION.fullmatch(str(text))) or float(found[1]) * _UNITS[found[2]] > LONGEST_SECONDS:
        message = "a duration such as 250ms, 3s, 5m, 48h or 7d"
        raise ValueError(message)
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def parse_size(text: object) -> int:
    """Return the bytes of ``0B``, ``256MB`` or ``1.5GB``, where a kB is a thousand; raises ValueError."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    if not (found := _SIZE.fullmatch(str(text))):
        message = "a size such as 0B, 256MB or 1.5GB"
        raise ValueError(message)
    return round(float(found[1]) * _BYTES[found[2]])


def parse_bind(text: object) -> Bind:
    """Return the address of ``host:port``; raises ValueError."""
    host, colon, port = str(text).rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
        message = "host:port, such as 127.0.0.1:8001"
        raise ValueError(message)
    return Bind(text)


def _duration_text(value: timedelta) -> str:
    seconds = value.total_seconds()
    unit = next((u for u in ("d", "h", "m", "s") if seconds >= _UNITS[u] and seconds % _UNITS[u] == 0), "ms")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def _size_text(value: int) -> str:
    unit = next((u for u in ("TB", "GB", "MB", "kB") if value >= _BYTES[u] and value % _BYTES[u] == 0), "B")
    return f"{value // _BYTES[unit]}{unit}"


def _with_port(url: str) -> str:
    """Return an address whose port is one, if it has any; raises ValueError."""
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        message = "an address whose port, if it has one, is 1 to 65535"
        raise ValueError(message)
    return url


def _endpoints(text: object) -> object:
    """Return the base addresses of a comma separated list; raises ValueError."""
    if isinstance(text, str):
        text = text.split(",")
    if not isinstance(text, list | tuple):
        return text
    return tuple(dict.fromkeys(_endpoint(part.strip()) for part in map(str, text) if part.strip()))


def _endpoint(url: str) -> str:
    """Return where spans are sent below ``/v1/traces``: that path is ours to add, and left out if it was given.

    So OpenTelemetry has it (OTLP exporter, endpoint URLs): a base address gets the path, one for traces alone has it.
    """
    wanted = "http://host:port or https://host:port of an OTLP receiver over HTTP, such as http://127.0.0.1:4318"
    if not _BASE_URL.fullmatch(url):
        bare = _BASE_URL.fullmatch(f"http://{url}") and "://" not in url
        raise ValueError(f"{wanted}; with its scheme that is http://{url}" if bare else wanted)
    while (base := _with_port(url).rstrip("/").removesuffix("/v1/traces")) != url:
        url = base
    return url


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(_duration_text, return_type=str)]
"""A time span, written ``250ms``, ``3s``, ``5m``, ``48h`` or ``7d``."""
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(_size_text, return_type=str)]
"""A number of bytes, written ``0B``, ``256MB`` or ``1.5GB``."""
Address = Annotated[Bind, PlainValidator(parse_bind), PlainSerializer(str, return_type=str)]
Hidden = Annotated[Secret, PlainValidator(Secret), PlainSerializer(repr, return_type=str)]
"""A secret: shown as ``***``."""
Urls = Annotated[tuple[str, ...], BeforeValidator(_endpoints)]
Url = Annotated[
    str,
    Field(pattern=r"^https?://[^\s/]+(/\S*)?$"),
    AfterValidator(_with_port),
    PlainSerializer(lambda url: _LOGIN.sub("//***@", url), return_type=str),
]
"""An http or https address; a login in it is shown as ``***``."""


class Settings(BaseModel):
    """What the process of any service may be told, whatever its role; a service's class adds what it alone needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_url: Hidden
    kafka_bootstrap: str = Field(min_length=1)
    kafka_cluster: str = ""  # the id of the cluster that is ours; empty: the one a relay met first
    registry_url: Url
    api_bind: Address = Bind("127.0.0.1:8001")
    ops_bind: Address = Bind("127.0.0.1:8101")
    auth: Literal["off", "off-published-on-loopback", "keys"] = "off"
    keys_file: Path | None = None
    rate_per_key: int = Field(50, ge=1, le=1_000_000)
    public_url: Url | None = None
    console_url: Url | None = None
    jaeger_url: Url | None = None
    schema_cache: Path = Path(".quadrille/schemas")
    idempotency_ttl: Duration = timedelta(hours=48)
    # Nothing handled for so long with records ahead is a stall; the client is made anew after the second time.
    stall_after: Duration = Field(timedelta(seconds=30), ge=timedelta(seconds=1), le=timedelta(hours=1))
    stall_renew_after: Duration = Field(timedelta(seconds=60), le=timedelta(hours=24))
    inbox_window: Duration = Field(timedelta(days=7), ge=timedelta(hours=48))
    audit_seal_every: Duration = Field(timedelta(hours=1), ge=timedelta(seconds=1), le=timedelta(days=1))
    batch_max: int = Field(100, ge=1, le=500)
    # A batch waits so long for company, the more the scarcer cores are (quadrille.observability.linger).
    linger_max: Duration = Field(timedelta(milliseconds=100), ge=timedelta(0), le=timedelta(seconds=1))
    linger_min: Duration = Field(timedelta(0), ge=timedelta(0), le=timedelta(seconds=1))
    relay_linger: Duration = Field(timedelta(milliseconds=40), ge=timedelta(0), le=timedelta(milliseconds=100))
    trace_ratio: float = Field(1.0, ge=0, le=1)
    otlp_endpoints: Urls = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_events: bool = False
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("stall_renew_after")
    @classmethod
    def _after_the_stall(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        if value < (least := info.data.get("stall_after", value)):
            message = f"at least {PREFIX}STALL_AFTER, which is {_duration_text(least)}"
            raise ValueError(message)
        return value

    @property
    def patience(self) -> Patience:
        """How long nothing may be handled."""
        return Patience(self.stall_after.total_seconds(), self.stall_renew_after.total_seconds())

    @property
    def public_base(self) -> str:
        """Where clients reach this API: PUBLIC_URL, else its own address."""
        return self.public_url.rstrip("/") if self.public_url else f"http://{self.api_bind}"

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value came from: default, the file's name, environment or flag."""
        return self._sources

    def shown(self) -> dict[str, object]:
        """Return every setting as text, secrets as ``***``."""
        return self.model_dump(mode="json")


S = TypeVar("S", bound=Settings)


def settings_of(service: str) -> type[Settings]:
    """Return the class of a service's settings: ``SETTINGS`` of its module ``settings``; without one, the chassis's."""
    if importlib.util.find_spec(f"{service}.settings") is None:
        return Settings
    own: type[Settings] = importlib.import_module(f"{service}.settings").SETTINGS
    return own


def read(wanted: type[S], flags: Sequence[str] = ()) -> S:
    """Return the settings of this process, or end it with one line on stderr and exit code 2."""
    try:
        return parse(wanted, flags, os.environ, Path(FILE))
    except SettingsError as refused:
        sys.stderr.write(f"refused to start: {refused}\n")
        sys.exit(refused.exit_code)


def parse(wanted: type[S], flags: Sequence[str], environ: Mapping[str, str], file: Path) -> S:
    """Return the settings of a class; raises SettingsError for an unknown name or an invalid value.

    ``flags`` are ``--name=value``, such as ``--api-bind=127.0.0.1:9001``.
    """
    found: dict[str, Any] = {}
    sources = dict.fromkeys(wanted.model_fields, "default")
    for source, values in (
        (str(file), _from_file(wanted, file)),
        ("environment", _from_environ(wanted, environ)),
        ("flag", _flags(wanted, flags)),
    ):
        found |= values
        sources |= dict.fromkeys(values, source)
    try:
        settings = wanted(**found)
    except ValidationError as refused:
        raise _refusal(refused, sources, _secrets(wanted)) from None
    settings._sources.update(sources)  # noqa: SLF001 - set once, here
    if settings.auth == "off" and not settings.api_bind.loopback:
        raise SettingsError(
            found=f"{PREFIX}API_BIND={settings.api_bind} with {PREFIX}AUTH=off",
            wanted="a loopback address while authentication is off",
            fix=f"set {PREFIX}API_BIND=127.0.0.1:{settings.api_bind.port}, or {PREFIX}AUTH=keys;"
            f" in a container {PREFIX}AUTH={PUBLISHED}",
        )
    if (settings.auth == "keys") != (settings.keys_file is not None):
        named = f"no {PREFIX}KEYS_FILE" if settings.keys_file is None else f"{PREFIX}KEYS_FILE={settings.keys_file}"
        raise SettingsError(
            found=f"{named} with {PREFIX}AUTH={settings.auth}",
            wanted="a file of keys when keys are wanted, and none when they are not",
            fix=f"set {PREFIX}AUTH=keys and {PREFIX}KEYS_FILE, or neither; a file is made by"
            " quadrille keys new --file FILE --owner NAME --scope SCOPE",
        )
    return settings


def _secrets(wanted: type[Settings]) -> frozenset[str]:
    return frozenset(name for name, field in wanted.model_fields.items() if field.annotation is Secret)


def _from_file(wanted: type[Settings], file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as refused:
        raise SettingsError(found=f"{file}: {refused}", wanted="TOML", fix=f"correct {file}") from None
    return {_known(wanted, name, f"{name} in {file}"): value for name, value in values.items()}


def _from_environ(wanted: type[Settings], environ: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    secrets = _secrets(wanted)
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX)
        if name == variable or name in ELSEWHERE:
            continue
        if (secret := name.lower().removesuffix("_file")) in secrets and name.endswith("_FILE"):
            values[secret] = _secret(variable, value)
        else:
            values[_known(wanted, name.lower(), variable)] = value
    return values


def _secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as refused:
        found = f"{variable}={path}: {refused.strerror}"
        raise SettingsError(found=found, wanted="a readable file", fix=f"correct {variable}") from None


def _flags(wanted: type[Settings], flags: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not (name.startswith("--") and equals):
            fixed = name if name.startswith("--") else "--name"
            raise SettingsError(found=f"argument {flag}", wanted="--name=value", fix=f"write {fixed}=value")
        values[_known(wanted, name[2:].replace("-", "_"), name)] = value
    return values


def _known(wanted: type[Settings], name: str, shown: str) -> str:
    if name in wanted.model_fields:
        return name
    near = difflib.get_close_matches(name, wanted.model_fields, 1, 0.5)
    known = f"{PREFIX}{near[0].upper()}" if near else "a name of docs/settings.md"
    raise SettingsError(found=f"unknown setting {shown}", wanted=known, fix=f"rename {shown}, or remove it")


def _refusal(refused: ValidationError, sources: Mapping[str, str], secrets: frozenset[str]) -> SettingsError:
    error = refused.errors(include_url=False)[0]
    name = str(error["loc"][0])
    variable = PREFIX + name.upper()
    if error["type"] == "missing":
        return SettingsError(found=f"no {variable}", wanted=f"{variable}, which has no default", fix=f"set {variable}")
    given = error["input"]
    value = "***" if name in secrets else _duration_text(given) if isinstance(given, timedelta) else repr(given)
    value = _LOGIN.sub("//***@", value)
    wanted = str(error.get("ctx", {}).get("error") or error["msg"])
    return SettingsError(
        found=f"{variable}={value} ({sources[name]})", wanted=wanted, fix=f"set {variable} to a valid value"
    )
