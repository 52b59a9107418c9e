"""The ``OTEL_*`` variables of OpenTelemetry's SDK that concern traces: read once, and checked, at the start.

A value that is none is a refusal with its name, never a default in its place. A setting of our own that is given wins
over its variable; docs/settings.md has the list. Nothing of the SDK is imported here: an untraced process goes without.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import structlog

__all__ = ["OtelError", "OtelSettings", "check", "load", "name_unheard", "read"]

PATH = "/v1/traces"
LOCAL = "http://localhost:4318"  # where the specification has an exporter send that is told nothing else
TIMEOUT_LEAST_MS = 100
SAMPLERS = ("always_on", "always_off", "traceidratio")
RATIOS = ("traceidratio", "parentbased_traceidratio")
EXPORTERS, SAMPLING = "opentelemetry_traces_exporter", "opentelemetry_traces_sampler"
PROPAGATION, DETECTION = "opentelemetry_propagator", "opentelemetry_resource_detector"
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
_OTLP = "OTEL_EXPORTER_OTLP_"
_SHARED = (
    "ENDPOINT",
    "PROTOCOL",
    "HEADERS",
    "TIMEOUT",
    "COMPRESSION",
    "CERTIFICATE",
    "CLIENT_KEY",
    "CLIENT_CERTIFICATE",
)
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)  # fmt: skip
HEARD = frozenset({
    "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
    "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_TRACES_EXPORTER", "OTEL_PROPAGATORS",
    "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    *_LIMITS, *(f"{_OTLP}{name}" for name in _SHARED), *(f"{_OTLP}TRACES_{name}" for name in _SHARED),
})  # fmt: skip
_URL = re.compile(r"https?://([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:\d+)?(/[^\s?#]*)?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_W3C = ("tracecontext", "baggage")
T = TypeVar("T")
log = structlog.get_logger()


class OtelError(Exception):
    """A variable has a value that is none: what was found, what is wanted, how to fix it."""

    def __init__(self, name: str, shown: str, wanted: str) -> None:
        self.found, self.wanted, self.fix = f"{name}={shown}", wanted, f"correct {name}, or remove it"
        super().__init__(f"found {self.found}; wanted {wanted}; fix: {self.fix}")


@dataclass(frozen=True, slots=True)
class OtelSettings:
    """What the variables say; ``None`` is what they do not say.

    ``endpoint`` is the whole address spans are posted to; times are in seconds; ``tls`` is made of the certificates.
    """

    disabled: bool
    exporters: tuple[str, ...] | None
    endpoint: str | None
    headers: Mapping[str, str]
    timeout: float
    gzip: bool
    tls: ssl.SSLContext | None
    sampler: tuple[str, str] | None
    propagators: tuple[str, ...]
    delay: float | None
    queue: int | None
    batch: int | None


class _Variables:
    """The variables as texts; one that is empty is not set, as the specification has it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._texts = {name: text.strip() for name, text in environ.items() if name in HEARD and text.strip()}

    def text(self, *names: str) -> tuple[str, str]:
        """Return the first variable that is set, with its text; the text is empty where none is."""
        return next(((name, self._texts[name]) for name in names if name in self._texts), (names[0], ""))

    def otlp(self, name: str) -> tuple[str, str]:
        """Return a variable of the exporter: that of traces alone goes before that of all signals."""
        return self.text(f"{_OTLP}TRACES_{name}", f"{_OTLP}{name}")

    def count(self, name: str, least: int = 0) -> int | None:
        """Return a whole number; None where it is not set."""
        return self._count(self.text(name), least, f"a whole number, {least} at least")

    def milliseconds(self, told: tuple[str, str], least: int) -> float | None:
        """Return a time in seconds."""
        found = self._count(told, least, f"milliseconds, {least} at least")
        return None if found is None else found / 1000

    def _count(self, told: tuple[str, str], least: int, wanted: str) -> int | None:
        name, text = told
        if not text:
            return None
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise OtelError(name, text, wanted)
        return int(text)

    def words(self, name: str) -> tuple[str, ...]:
        """Return the words of a list, each once."""
        return tuple(dict.fromkeys(word.strip() for word in self.text(name)[1].split(",") if word.strip()))


def read(environ: Mapping[str, str]) -> OtelSettings:
    """Return what the variables say; raises OtelError for the first whose value is none."""
    said = _Variables(environ)
    for name in _LIMITS:
        said.count(name)
    _check_resource(said)
    _check_protocol(*said.otlp("PROTOCOL"))
    timeout = said.milliseconds(said.otlp("TIMEOUT"), TIMEOUT_LEAST_MS)
    longest = said.milliseconds(said.text("OTEL_BSP_EXPORT_TIMEOUT"), TIMEOUT_LEAST_MS)
    return OtelSettings(
        disabled=_truth(*said.text("OTEL_SDK_DISABLED")),
        exporters=_exporters(said),
        endpoint=_endpoint(said),
        headers=_headers(*said.otlp("HEADERS")),
        timeout=min(10.0 if timeout is None else timeout, 30.0 if longest is None else longest),
        gzip=_gzip(*said.otlp("COMPRESSION")),
        tls=_tls(said),
        sampler=_sampler(said),
        propagators=_propagators(said),
        delay=said.milliseconds(said.text("OTEL_BSP_SCHEDULE_DELAY"), 1),
        **_sizes(said),
    )


def check(environ: Mapping[str, str]) -> str | None:
    """Return why a process must not start with these variables, None where it may."""
    try:
        read(environ)
    except OtelError as wrong:
        return str(wrong)
    return None


def load(group: str, name: str, variable: str) -> Any:  # noqa: ANN401 - whatever a package offers under a name
    """Return what an installed package offers under a name; raises OtelError if it cannot be loaded."""
    try:
        return next(iter(_offered(group, name))).load()
    except Exception as broken:
        raise OtelError(variable, name, f"a package that can be loaded ({type(broken).__name__})") from broken


def name_unheard(environ: Mapping[str, str], *, endpoints: bool = False, ratio: bool = False) -> None:
    """Name each variable of a library's that is not heard here: nobody is to wait for its effect.

    ``endpoints`` and ``ratio`` say that our own settings of that name are given, which win.
    """
    if MULTIPROCESS in environ:
        log.warning("setting is not heard", setting=MULTIPROCESS, reason="each process answers /metrics by itself")
    overruled = {f"{_OTLP}ENDPOINT", f"{_OTLP}TRACES_ENDPOINT"} if endpoints else set()
    overruled |= {"OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"} if ratio else set()
    if endpoints and environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        overruled.add("OTEL_TRACES_EXPORTER")
    for name in sorted(name for name in environ if name.startswith("OTEL_")):
        if name in overruled:
            ours = "QUADRILLE_TRACE_RATIO" if "SAMPLER" in name else "QUADRILLE_OTLP_ENDPOINTS"
            log.warning("setting is not heard", setting=name, reason=f"{ours} is given, and wins")
        elif name not in HEARD:
            log.warning("setting is not heard", setting=name, reason="it is none of those in docs/settings.md")


def _offered(group: str, name: str) -> Iterable[EntryPoint]:
    return entry_points(group=group, name=name)


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("", "true", "false"):
        raise OtelError(name, text, "true or false")
    return text.lower() == "true"


def _exporters(said: _Variables) -> tuple[str, ...] | None:
    name = "OTEL_TRACES_EXPORTER"
    words = tuple("otlp" if word == "otlp_proto_http" else word for word in said.words(name))
    for word in words:
        if word == "otlp_proto_grpc":
            raise OtelError(name, word, "otlp: spans go over HTTP only, gRPC is not there")
        if word not in ("otlp", "console", "none") and not _offered(EXPORTERS, word):
            raise OtelError(name, word, "otlp, console, none, or an exporter of an installed package")
    if "none" in words and len(words) > 1:
        raise OtelError(name, ",".join(words), "none alone, or exporters")
    return words or None


def _check_protocol(name: str, text: str) -> None:
    if text not in ("", "http/protobuf"):
        missing = {
            "grpc": ": gRPC is not there, its receivers listen for HTTP on 4318",
            "http/json": ": JSON is not there",
        }
        raise OtelError(name, text, f"http/protobuf{missing.get(text, '')}")


def _endpoint(said: _Variables) -> str | None:
    name, text = said.otlp("ENDPOINT")
    if not text:
        return None
    try:
        sound = bool(_URL.fullmatch(text)) and urlsplit(text).port != 0
    except ValueError:
        sound = False
    if not sound:
        raise OtelError(
            name, re.sub(r"//[^/@\s]*@", "//***@", text), f"http://host:port or https://host:port, such as {LOCAL}"
        )
    return text if "TRACES" in name else text.rstrip("/") + PATH


def _headers(name: str, text: str) -> Mapping[str, str]:
    """Return headers of ``name=value,name=value``, values percent-encoded; they may be secrets and are never shown."""
    headers: dict[str, str] = {}
    for item in filter(str.strip, text.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        value = unquote(value)
        if not equals or not _HEADER.fullmatch(key) or not _VALUE.fullmatch(value):
            raise OtelError(name, "***", "name=value,name=value, values in percent-encoding")
        headers[key.lower()] = value
    return headers


def _gzip(name: str, text: str) -> bool:
    if text not in ("", "none", "gzip"):
        raise OtelError(name, text, "gzip or none")
    return text == "gzip"


def _tls(said: _Variables) -> ssl.SSLContext | None:
    """Return how the receiver is trusted and we are known; None is the machine's own trust."""
    authority, key, mine = (said.otlp(name) for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"))
    if key[1] and not mine[1]:
        raise OtelError(*key, f"{mine[0]} with it")
    if not authority[1] and not mine[1]:
        return None
    for name, path in (authority, key, mine):
        if path and not Path(path).is_file():
            raise OtelError(name, path, "a file that can be read")
    tls = _trying(authority, lambda: ssl.create_default_context(cafile=authority[1] or None))
    if mine[1]:
        _trying(mine, lambda: tls.load_cert_chain(mine[1], key[1] or None))
    return tls


def _trying(variable: tuple[str, str], make: Callable[[], T]) -> T:
    try:
        return make()
    except OSError as unfit:  # an SSLError is one
        raise OtelError(*variable, f"a certificate in PEM ({unfit.strerror or type(unfit).__name__})") from None


def _sampler(said: _Variables) -> tuple[str, str] | None:
    name, text = said.text("OTEL_TRACES_SAMPLER")
    told, argument = said.text("OTEL_TRACES_SAMPLER_ARG")
    word = text.lower()
    if not word:
        if argument:
            raise OtelError(told, argument, f"{name} with it: the argument is a sampler's")
        return None
    if word.removeprefix("parentbased_") not in SAMPLERS and not _offered(SAMPLING, text):
        known = ", ".join((*SAMPLERS, *(f"parentbased_{one}" for one in SAMPLERS)))
        raise OtelError(name, text, f"{known}, or a sampler of an installed package")
    if word in RATIOS and argument and not _is_ratio(argument):
        raise OtelError(told, argument, "a ratio from 0 to 1")
    return (word if word.removeprefix("parentbased_") in SAMPLERS else text), argument


def _is_ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _propagators(said: _Variables) -> tuple[str, ...]:
    name = "OTEL_PROPAGATORS"
    words = said.words(name) or _W3C
    for word in words:
        if word not in ("none", *_W3C) and not _offered(PROPAGATION, word):
            raise OtelError(name, word, "tracecontext, baggage, b3, b3multi, none, or one of an installed package")
    if "none" in words and len(words) > 1:
        raise OtelError(name, ",".join(words), "none alone, or propagators")
    return () if words == ("none",) else words


def _sizes(said: _Variables) -> dict[str, int | None]:
    queue, batch = (said.count(f"OTEL_BSP_MAX_{name}", 1) for name in ("QUEUE_SIZE", "EXPORT_BATCH_SIZE"))
    if batch and queue and batch > queue:
        name = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
        raise OtelError(name, str(batch), f"OTEL_BSP_MAX_QUEUE_SIZE, {queue}, at most")
    return {"queue": queue, "batch": batch}


def _check_resource(said: _Variables) -> None:
    name, text = said.text("OTEL_RESOURCE_ATTRIBUTES")
    for item in filter(str.strip, text.split(",")):
        key, equals, _ = item.partition("=")
        if not key.strip() or not equals:
            raise OtelError(name, text, "key=value,key=value")
    name = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
    for word in said.words(name):
        if word != "*" and not _offered(DETECTION, word):
            raise OtelError(name, word, "otel, process, os, host, or a detector of an installed package")
