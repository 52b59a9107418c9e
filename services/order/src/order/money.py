"""Money in documents: a currency of ISO 4217, an amount in its smallest unit."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

# What people pay in: funds, metals and test codes are left out.
CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP
    CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR
    IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU
    MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG
    SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV
    WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    """.split()  # noqa: SIM905 - a list would be 160 lines
)


def _known(code: str) -> str:
    if code not in CURRENCIES:
        kind, text = "unknown_currency", "Not a currency of ISO 4217"
        raise PydanticCustomError(kind, text)
    return code


Currency = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": sorted(CURRENCIES)})]
SAFE = 2**53 - 1  # the largest integer that every JSON reader has exactly (RFC 8259, 6): no amount is beyond
Price = Annotated[int, Field(ge=1, le=10_000_000_000, description="In the currency's smallest unit.", examples=[1250])]
