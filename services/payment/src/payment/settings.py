"""What payment's processes alone may be told: the card processor."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from quadrille.app import Duration, Settings, Url


class PaymentSettings(Settings):
    """Payment's settings: where the card processor is, and how long it may take to answer."""

    processor_url: Url = "http://127.0.0.1:8010"
    # An intent's lease of 30 s outlasts an inquiry and four tries, each of them with half a second for a place.
    processor_timeout: Duration = Field(timedelta(seconds=3), gt=timedelta(0), le=timedelta(seconds=5))


SETTINGS = PaymentSettings
