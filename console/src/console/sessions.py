"""Sessions: who may use the buttons; a link logs in once, a cookie says who comes back.

Of a link's token and a cookie's secret the database has the SHA-256 alone: whoever reads it can log in with none of it.
The API key a session acts with is sealed by that secret, of which 256 random bits are used for nothing else.
A form proves that a page of ours made it by a code which only the cookie's secret makes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from quadrille.app import Secret
from quadrille.service import Tx

TOKEN_BYTES = 32
LONGEST = 200  # characters of what somebody sends as a token or secret
KEPT = "1 day"
ADD_LOGIN = """
INSERT INTO login (token, actor, sealed, expires_at) VALUES (%b, %b, %b, clock_timestamp() + %b::interval)
RETURNING expires_at"""
USE = """
UPDATE login SET used_at = clock_timestamp()
 WHERE token = %b AND used_at IS NULL AND expires_at > clock_timestamp() RETURNING actor, sealed"""
FOUND = "SELECT used_at IS NOT NULL, expires_at <= clock_timestamp() FROM login WHERE token = %b"
BEGIN = """
INSERT INTO session (secret, actor, sealed, expires_at) VALUES (%b, %b, %b, clock_timestamp() + %b::interval)"""
END = "DELETE FROM session WHERE secret = %b"
LET_GO = (
    f"DELETE FROM login WHERE expires_at < clock_timestamp() - interval '{KEPT}'",  # noqa: S608 - of this file
    "DELETE FROM session WHERE expires_at < clock_timestamp()",
)
NOTE = """
INSERT INTO outcome (session, level, said, command, link)
SELECT secret, %b, %b, %b, %b FROM session WHERE secret = %b RETURNING number"""
VISIT = """
SELECT s.actor, s.expires_at, s.sealed, o.number, o.level, o.said, o.command, o.link, o.at
  FROM session s LEFT JOIN outcome o ON o.session = s.secret AND o.number = :said
 WHERE s.secret = :secret AND s.expires_at > clock_timestamp()"""
Refused = Literal["USED", "EXPIRED", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a button: ``level`` is good, going, warn or bad; the command that does the same; where to look."""

    level: str
    said: str
    command: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A person who is logged in, until when, by which secret, what came of the button pressed last; with which key."""

    actor: str
    expires_at: datetime
    secret: str
    said: Outcome | None = None
    key: Secret = field(default=Secret(""), repr=False)

    @property
    def proof(self) -> str:
        """What a form has to send along: nobody makes it without the cookie."""
        return hmac.digest(self.secret.encode(), b"form", "sha256").hex()

    def proves(self, sent: str) -> bool:
        """Tell whether a form was made for this session."""
        return hmac.compare_digest(sent.encode(), self.proof.encode())


def hashed(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret[:LONGEST].encode()).digest()


def sealed(secret: str, key: str) -> bytes | None:
    """Return a key as it is kept, None for none: only who has the secret reads it, by doing the same again."""
    return _crossed(secret, key.encode()) if key else None


def unsealed(secret: str, kept: bytes | None) -> Secret:
    """Return the key that was sealed, nothing where none was."""
    return Secret(_crossed(secret, kept).decode("ascii", "replace") if kept else "")


def _crossed(secret: str, text: bytes) -> bytes:
    pad = hashlib.shake_256(b"key\0" + secret[:LONGEST].encode()).digest(len(text))
    return bytes(one ^ other for one, other in zip(text, pad, strict=True))


def offer(tx: Tx, actor: str, life: timedelta, key: str = "") -> tuple[str, datetime]:
    """Return a new token that logs in once, and until when; what is long over is let go."""
    for statement in LET_GO:
        tx.execute(statement.encode())
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row = tx.execute(ADD_LOGIN, [hashed(token), actor, sealed(token, key), life]).fetchone()
    assert row is not None  # noqa: S101 - INSERT … RETURNING of one row
    return token, row[0]


def begin(tx: Tx, token: str, life: timedelta) -> tuple[str, Refused | None]:
    """Use a token up and return a new session's secret; or nothing, and why the token is refused."""
    with tx.transaction():
        if row := tx.execute(USE, [hashed(token)]).fetchone():
            return begin_as(tx, row[0], life, unsealed(token, row[1])), None
        found = tx.execute(FOUND, [hashed(token)]).fetchone()
    if found is None:
        return "", "UNKNOWN"
    return "", "USED" if found[0] else "EXPIRED"


def begin_as(tx: Tx, actor: str, life: timedelta, key: str) -> str:
    """Begin a session of somebody known, who acts with this key, and return its secret."""
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    tx.execute(BEGIN, [hashed(secret), actor, sealed(secret, key), life])
    return secret


def end(tx: Tx, secret: str) -> None:
    """Log out."""
    tx.execute(END, [hashed(secret)])


def note(tx: Tx, secret: str, outcome: Outcome) -> int:
    """Keep what came of a button for the page that follows, and return its number; 0 if the session is over."""
    told = [outcome.level, outcome.said, outcome.command, outcome.link]
    row = tx.execute(NOTE, [*told, hashed(secret)]).fetchone()
    return int(row[0]) if row else 0


def visit(db: sa.Connection, secret: str, said: int) -> Session | None:
    """Return the session of a cookie, with one of its outcomes; None if it is over, or never was."""
    row = db.execute(sa.text(VISIT), {"secret": hashed(secret), "said": said}).mappings().first()
    if row is None:
        return None
    outcome = None if row["number"] is None else Outcome(row["level"], row["said"], row["command"], row["link"])
    return Session(row["actor"], row["expires_at"], secret, outcome, unsealed(secret, row["sealed"]))
