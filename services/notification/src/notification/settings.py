"""What notification's processes alone may be told: the mail server."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from quadrille.app import Duration, Hidden, Secret, Settings


class NotificationSettings(Settings):
    """Notification's settings: where the mail server is, which may hold a password.

    A mail has time: its worker takes what came in a tenth of a second at once.
    """

    linger_min: Duration = Field(timedelta(milliseconds=100), ge=timedelta(0), le=timedelta(seconds=1))
    smtp_url: Hidden = Secret("smtp://127.0.0.1:8025")


SETTINGS = NotificationSettings
