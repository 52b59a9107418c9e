"""Notification wired: handlers and store for the worker, the mail server as its outside, contacts and notices API."""

from __future__ import annotations

from notification import gateway, store
from notification.handlers import on
from notification.settings import NotificationSettings
from quadrille.app import Program


def mailer(found: NotificationSettings) -> gateway.Mailer:
    """Return the client of the mail server the settings name."""
    return gateway.Mailer(found.smtp_url)


PROGRAM = Program(
    on, store, api="notification.api:make", outside=gateway.outside, client=mailer, look=store.look, digest=store.DIGEST
)
