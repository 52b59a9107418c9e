"""What the sandbox is told at its start, read once from the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from quadrille_sandbox.processor import Rules

Address: TypeAlias = tuple[str, int]
PREFIX = "QUADRILLE_SANDBOX_"
KNOWN = (f"{PREFIX}BIND", f"{PREFIX}DATA", f"{PREFIX}SETTLE_AFTER", f"{PREFIX}KEY_TTL")
HIGHEST_PORT = 65535
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class SettingsError(Exception):
    """The start is refused; the text says what was found, what was wanted and how to mend it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen, where to keep the journals, how the processor behaves."""

    http: Address
    smtp: Address
    data: Path
    rules: Rules


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings; raises SettingsError for production, an unknown name or an unreadable value."""
    if (profile := environment.get("QUADRILLE_PROFILE", "development")).lower() == "production":
        why = f"found QUADRILLE_PROFILE={profile}; the sandbox charges nobody; point PROCESSOR_URL at a processor"
        raise SettingsError(why)
    for name in environment:
        if name.startswith(PREFIX) and name not in KNOWN:
            nearest = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0)[0]
            why = f"found {name}; nothing reads it; did you mean {nearest}?"
            raise SettingsError(why)
    return Settings(
        http=_address("QUADRILLE_SANDBOX_BIND", environment.get("QUADRILLE_SANDBOX_BIND", "127.0.0.1:8010")),
        smtp=_address("QUADRILLE_SMTP_BIND", environment.get("QUADRILLE_SMTP_BIND", "127.0.0.1:8025")),
        data=Path(environment.get("QUADRILLE_SANDBOX_DATA", ".quadrille/sandbox")),
        rules=Rules(_duration(environment, "SETTLE_AFTER", "24h"), _duration(environment, "KEY_TTL", "0s")),
    )


def _address(name: str, value: str) -> Address:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > HIGHEST_PORT:
        why = f"found {name}={value}; wanted host:port; as in 127.0.0.1:8010"
        raise SettingsError(why)
    return host.strip("[]"), int(port)


def _duration(environment: Mapping[str, str], name: str, default: str) -> float:
    value = environment.get(PREFIX + name, default)
    if not (read_ := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value)):
        why = f"found {PREFIX}{name}={value}; wanted a number and s, m, h or d; as in {default}"
        raise SettingsError(why)
    return float(read_[1]) * _SECONDS[read_[2]]
