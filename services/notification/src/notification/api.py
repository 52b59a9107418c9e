"""The address book and the notices: the one place where an address is written, read and erased."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Request, Response
from pydantic import Field
from starlette.types import ASGIApp

from notification import handlers, store
from notification.events import DeleteContact, PutContact
from notification.store import Sent
from quadrille.web import Answer, Api, Document, ProcessContext, Routes, TheApi, Time, answer, call_of, make_app, refuse

routes = Routes("contacts:read", "contacts:write", "notices:read")
PRIVATE = {"Cache-Control": "no-store"}
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
CUSTOMER = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
EMAIL = r"^[A-Za-z0-9_.!#$%&'*+/=?^`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,188}[A-Za-z0-9])?$"  # what mail goes to
CustomerPath = Annotated[str, Path(pattern=CUSTOMER, description="The customer's id.", examples=["cust_demo"])]
CONTACT = {"customer_id": "cust_demo", "email": "demo@shop.example"}
NOTICE = {
    "kind": "cancelled",
    "state": "SUPPRESSED",
    "because": "NO_ADDRESS",
    "changed_at": "2026-11-21T09:14:04.021Z",
}


class Address(Document):
    """Where a customer is written to."""

    email: str = Field(pattern=EMAIL, examples=["demo@shop.example"])


class Contact(Document):
    """A line of the address book."""

    customer_id: str
    email: str


class Notice(Document):
    """One mail about one order."""

    kind: str = Field(description="confirmed or cancelled.")
    state: str = Field(description="SENDING, SENT, FAILED or SUPPRESSED.")
    because: str | None = Field(description="Why it was not sent.")
    changed_at: Time


class Notices(Document):
    """The mails about an order, oldest change first."""

    notices: list[Notice]


@routes.on(
    "GET", "/v1/contacts/{customer_id}", scope="contacts:read", problems=("not-found",),
    answers=[Answer(200, "The customer's address.", Contact, CONTACT)],
)  # fmt: skip
async def show_contact(api: TheApi, customer_id: CustomerPath) -> Response:
    """Show where a customer is written to."""
    found = await api.read(store.contact_of, customer_id)
    if found is None:
        refuse("not-found")
    return answer(Contact(customer_id=customer_id, email=found.address), headers=PRIVATE)


@routes.on(
    "PUT", "/v1/contacts/{customer_id}", scope="contacts:write", problems=("outcome-unknown",),
    answers=[
        Answer(200, "The address is replaced.", Contact, CONTACT),
        Answer(201, "A new customer.", Contact, CONTACT, {"Location": "Where it is."}),
    ],
)  # fmt: skip
async def put_contact(request: Request, api: TheApi, customer_id: CustomerPath, address: Address) -> Response:
    """Set where a customer is written to."""
    said = await api.execute(request, handlers.put_contact, PutContact(customer_id, address.email))
    document = Contact(customer_id=said.customer_id, email=said.address)
    if said.created:
        return answer(document, 201, {**PRIVATE, "Location": f"{api.base}/v1/contacts/{customer_id}"})
    return answer(document, headers=PRIVATE)


@routes.on(
    "DELETE", "/v1/contacts/{customer_id}", scope="contacts:write", problems=("outcome-unknown",),
    answers=[Answer(204, "The customer is not in the address book, whether there was one or not.")],
)  # fmt: skip
async def delete_contact(request: Request, api: TheApi, customer_id: CustomerPath) -> Response:
    """Erase a customer from the address book; no mail goes out to the address any more."""
    await api.execute(request, handlers.delete_contact, DeleteContact(customer_id))
    return Response(status_code=204)


@routes.on(
    "GET", "/v1/notices", scope="notices:read", problems=(),
    answers=[Answer(200, "The mails about the order, none if there is none yet.", Notices, {"notices": [NOTICE]})],
)  # fmt: skip
async def list_notices(request: Request, api: TheApi, order_id: Annotated[UUID, Query(examples=[ORDER])]) -> Response:
    """List the mails about an order, without their addresses."""
    order = call_of(request).order_id = str(order_id)
    found = await api.read(store.notices_of, order)
    return answer(Notices(notices=[_notice(sent) for sent in found]))


def _notice(sent: Sent) -> Notice:
    notice = sent.notice
    return Notice(kind=notice.kind.value, state=notice.state.value, because=notice.because, changed_at=sent.changed_at)


def make(context: ProcessContext) -> ASGIApp:
    """Return notification's API."""
    api = Api(context)
    return make_app("Quadrille notification", routes, api, context.spans, api.base, keys=api.keys)
