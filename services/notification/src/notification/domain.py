"""The rules of writing to a customer: one mail per order and kind, none without an address, none that became untrue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType, TypeAlias

from quadrille import Rows

OrderId = NewType("OrderId", str)
CustomerId = NewType("CustomerId", str)


class Kind(StrEnum):
    """The mails there are."""

    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"


NoticeId: TypeAlias = tuple[OrderId, Kind]


class State(StrEnum):
    """Where a mail stands; NONE is a tombstone: nothing to send was heard of yet, but what forbids it."""

    NONE = "NONE"
    SENDING = "SENDING"
    SENT = "SENT"
    FAILED = "FAILED"
    SUPPRESSED = "SUPPRESSED"


class Why(StrEnum):
    """Why a mail is not sent."""

    NO_ADDRESS = "NO_ADDRESS"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Notice:
    """One mail about one order; ``outdated`` says that a cancellation was heard, ``because`` why it was not sent."""

    order_id: OrderId
    kind: Kind
    state: State = State.NONE
    outdated: bool = False
    because: str | None = None


@dataclass(frozen=True, slots=True)
class Contact:
    """A line of the address book, the only place where an address is kept."""

    customer_id: CustomerId
    address: str


# transitions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """The mail is to be sent to this address."""

    address: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """The mail is not to be sent."""

    why: Why


@dataclass(frozen=True, slots=True)
class Ended:
    """The mail is out of our hands: sent, or given up."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing changed that anybody needs to hear of (law L11)."""


# the working set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Post:
    """The rows a batch may touch."""

    notices: Rows[NoticeId, Notice]
    contacts: Rows[CustomerId, Contact]

    def write(self, order_id: OrderId, kind: Kind, customer_id: CustomerId) -> Write | Suppressed | Nothing:
        """Write to the customer, once per order and kind, unless a cancellation or a missing address forbids it."""
        notice = self._of(order_id, kind)
        contact = self.contacts.get(customer_id)
        if notice.state is not State.NONE:
            return Nothing()
        if notice.outdated:
            return self._suppress(notice, Why.CANCELLED)
        if not contact:
            return self._suppress(notice, Why.NO_ADDRESS)
        self._put(replace(notice, state=State.SENDING))
        return Write(contact.address)

    def outdate(self, order_id: OrderId) -> None:
        """Remember that the order is to be undone: a confirmation not yet sent will not be."""
        notice = self._of(order_id, Kind.CONFIRMED)
        if notice.state in (State.NONE, State.SENDING):
            self._put(replace(notice, outdated=True))

    def finish(self, order_id: OrderId, kind: Kind, error: str | None = None) -> Ended | Nothing:
        """Record that the mail was taken, or given up with an error."""
        notice = self._of(order_id, kind)
        if notice.state is not State.SENDING:
            return Nothing()
        self._put(replace(notice, state=State.FAILED if error else State.SENT, because=error))
        return Ended()

    def drop(self, order_id: OrderId, kind: Kind, customer_id: CustomerId) -> Write | Suppressed | Nothing:
        """Record that the mail was not sent after all; one that is still wanted goes to where the customer is now."""
        notice = self._of(order_id, kind)
        contact = self.contacts.get(customer_id)
        if notice.state is not State.SENDING:
            return Nothing()
        if contact and not notice.outdated:
            return Write(contact.address)
        return self._suppress(notice, Why.CANCELLED if notice.outdated else Why.NO_ADDRESS)

    def may_send(self, order_id: OrderId, kind: Kind, contact: Contact) -> bool:
        """Tell whether the mail is still to be sent there: wanted, true, and the contact not changed or erased."""
        notice = self._of(order_id, kind)
        there = self.contacts.get(contact.customer_id) == contact
        return notice.state is State.SENDING and not notice.outdated and there

    def enter(self, customer_id: CustomerId, address: str) -> bool:
        """Set a customer's address; tell whether the customer is new."""
        created = self.contacts.get(customer_id) is None
        self.contacts.put(customer_id, Contact(customer_id, address))
        return created

    def erase(self, customer_id: CustomerId) -> bool:
        """Erase a customer; tell whether there was one."""
        if self.contacts.get(customer_id) is None:
            return False
        self.contacts.drop(customer_id)
        return True

    def _suppress(self, notice: Notice, why: Why) -> Suppressed:
        self._put(replace(notice, state=State.SUPPRESSED, because=why))
        return Suppressed(why)

    def _of(self, order_id: OrderId, kind: Kind) -> Notice:
        return self.notices.get((order_id, kind)) or Notice(order_id, kind)

    def _put(self, notice: Notice) -> None:
        self.notices.put((notice.order_id, notice.kind), notice)
