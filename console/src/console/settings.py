"""What the console's process alone may be told: whom it asks, and how long it keeps what it heard."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from console.alerts.targets import Target, targets_of
from quadrille.app import Duration, Hidden, Secret, Settings, Url


def _named(text: object) -> object:
    """Return the addresses of ``order-api=http://127.0.0.1:8101,…`` by name; raises ValueError."""
    if not isinstance(text, str):
        return text
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if wrong := next((name for name, equals, url in pairs if not (name and equals and url)), None):
        message = f"name=address, comma separated, such as order-api=http://127.0.0.1:8101; found {wrong!r}"
        raise ValueError(message)
    return {name: url.rstrip("/") for name, _, url in pairs}


Addresses = Annotated[
    dict[str, Url],
    BeforeValidator(_named),
    PlainSerializer(lambda found: ",".join(f"{n}={u}" for n, u in found.items())),
]
"""Addresses by name."""


class ConsoleSettings(Settings):
    """The console's settings.

    ``ops`` are the ops ports whose health is shown, by ``<service>-<role>``; ``apis`` the services' own APIs, asked for
    what their events do not say; ``keep`` and ``keep_events`` bound what is kept of events, ``keep_traces`` of traces.
    ``ops_key`` is the API key with which all of these are asked where they want one (ops:read, payments:read,
    notices:read). A login link is good for ``login_life``, the session it opens for ``session_life``.
    ``alert_targets`` are the webhooks that are told of alerts, a line each (``alerts/targets.py``), secret for their
    keys: ALERT_TARGETS_FILE names a file with them. ``alert_loopback`` lets them be on this machine.
    Every ``reconcile_every`` what the services keep of the same orders is held against each other, 0 for never;
    ``reconcile_orders`` so many of all there are are looked at anew in each round, beside those something happened to.
    ``stack`` is the data directory of the local stack this console runs in, whose logs it shows.
    """

    ops: Addresses = Field(default_factory=dict)
    apis: Addresses = Field(default_factory=dict)
    linger_min: Duration = Field(timedelta(milliseconds=250), ge=timedelta(0), le=timedelta(seconds=1))
    keep: Duration = Field(timedelta(days=7), ge=timedelta(minutes=1))
    keep_events: int = Field(2_000_000, ge=1_000)
    keep_traces: int = Field(10_000, ge=10)
    ops_key: Hidden = Secret("")
    login_life: Duration = Field(timedelta(minutes=10), ge=timedelta(seconds=1), le=timedelta(hours=1))
    session_life: Duration = Field(timedelta(hours=12), ge=timedelta(seconds=1), le=timedelta(days=7))
    alert_targets: Hidden = Secret("")
    alert_loopback: bool = False
    reconcile_every: Duration = Field(timedelta(seconds=60), ge=timedelta(0), le=timedelta(days=1))
    reconcile_orders: int = Field(2_000, ge=1, le=5_000)
    stack: Path | None = None

    @field_validator("alert_targets")
    @classmethod
    def _understood(cls, value: Secret) -> Secret:
        targets_of(str(value))
        return value

    @property
    def told(self) -> dict[str, Target]:
        """The targets of alerts, by name."""
        return targets_of(str(self.alert_targets))


SETTINGS = ConsoleSettings
