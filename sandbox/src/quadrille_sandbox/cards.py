"""What each payment token makes the processor do: the table of test values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the processor treats one card; seconds are wall-clock, counts are per idempotency key."""

    declines: str = ""
    loses: Literal["", "before", "after"] = ""  # the answer of the first call, before or after the charge was made
    errors: int = 0  # 503 answers before the first real one
    slow: float = 0.0  # seconds until the call is carried out and answered
    pending: float = 0.0  # seconds of `processing`
    refund_errors: int = 0
    refund_slow: float = 0.0
    refund_refused: str = ""

    @property
    def words(self) -> str:
        """What it does, as a list of test values tells it."""
        told = {
            f"declines: {self.declines}": self.declines,
            f"charges, and answers after {self.slow:g} s": self.slow,
            f"says `processing` for {self.pending:g} s, then charges": self.pending,
            f"answers 503 {self.errors} times, then charges": self.errors,
            "loses its first answer: nothing was charged": self.loses == "before",
            "charges, and loses its first answer": self.loses == "after",
            f"charges; answers 503 to {self.refund_errors} refunds, then gives it back": self.refund_errors,
            f"charges; gives it back after {self.refund_slow:g} s": self.refund_slow,
            f"charges; refuses the refund: {self.refund_refused}": self.refund_refused,
        }
        return "; ".join(words for words, so in told.items() if so) or "charges"


TOKENS = {
    "tok_ok": Behaviour(),
    "tok_declined_funds": Behaviour(declines="insufficient_funds"),
    "tok_declined_expired": Behaviour(declines="expired_card"),
    "tok_slow_6s": Behaviour(slow=6),
    "tok_timeout_after_charge": Behaviour(loses="after"),
    "tok_timeout_before_charge": Behaviour(loses="before"),
    "tok_pending_15s": Behaviour(pending=15),
    "tok_flaky_2": Behaviour(errors=2),
    "tok_refund_flaky": Behaviour(refund_errors=4),
    "tok_refund_slow_6s": Behaviour(refund_slow=6),
    "tok_refund_fails_business": Behaviour(refund_refused="card_closed"),
}
UNKNOWN_CARD = Behaviour(declines="invalid_token")


def behaviour(token: str) -> Behaviour:
    """Return what a token does; a token that no table names is declined as ``invalid_token``."""
    return TOKENS.get(token, UNKNOWN_CARD)


def test_values() -> list[dict[str, str]]:
    """Return the table for programs: what may be given where, and what it does."""
    return [{"given_as": "payment_token", "value": token, "does": does.words} for token, does in TOKENS.items()]
