"""What notification's processes alone may be told: the mail server."""

from __future__ import annotations

from quadrille.app import Hidden, Secret, Settings


class NotificationSettings(Settings):
    """Notification's settings: where the mail server is, which may hold a password."""

    smtp_url: Hidden = Secret("smtp://127.0.0.1:8025")


SETTINGS = NotificationSettings
