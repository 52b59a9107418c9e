"""A whole local stack with keys, as a person has it: every command goes on as before, nobody else gets in."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from quadrille_cli.demo_data import stock_up, write_addresses
from quadrille_cli.stack import Stack

KEPT = ("QUADRILLE_CACHE", "QUADRILLE_NO_AOT")
KEYLESS = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith("QUADRILLE_")}
LOOKS = 1000


@dataclass(frozen=True, slots=True)
class Here:
    """A stack that was started with keys, and what `up` said."""

    home: Path
    stack: Stack
    said: str

    def ends(self, *words: str, **env: str) -> tuple[int, str]:
        """Run a command about it, as a person does: its exit code and both outputs."""
        told = {"QUADRILLE_DATA": str(self.home)} if "URL" not in env else {}
        told |= {f"QUADRILLE_{name}": value for name, value in env.items()}
        command = [sys.executable, "-I", "-X", "utf8", "-m", "quadrille_cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=KEYLESS | told)
        return done.returncode, done.stdout + done.stderr

    def run(self, *words: str, code: int = 0, **env: str) -> str:
        """Run a command that must end so: what it told."""
        ended, told = self.ends(*words, **env)
        assert ended == code, told
        return told


@pytest.fixture(scope="module")
def here(stack_home: Path) -> Iterator[Here]:
    """A whole stack with keys, with stock and addresses."""
    home = stack_home / "keyed"
    command = [sys.executable, "-I", "-X", "utf8", "-m", "quadrille_cli", "up", "--detach", "--set", "AUTH=keys"]
    begun = subprocess.run([*command, "--data", str(home)], capture_output=True, text=True, check=False)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    stack = Stack.found(home)
    assert stack is not None
    try:
        stock_up(stack, {"SKU-TEA": 1000})
        write_addresses(stack)
        yield Here(home, stack, begun.stdout)
    finally:
        stack.stop()
        stack.wipe()


def test_nobody_gets_in_without_a_key(here: Here) -> None:
    """Every API is shut, the console asks for a login; probes answer, and ops ports this machine."""
    for service, path in (
        ("order", "/v1/orders"), ("inventory", "/v1/stock"), ("payment", "/v1/payments"), ("console", "/v1/flow"),
        ("notification", "/v1/notices"), ("console", "/"), ("console", "/orders"),
    ):  # fmt: skip
        assert httpx.get(here.stack.url(service) + path).status_code == 401, (service, path)
    assert httpx.post(f"{here.stack.url('console')}/v1/traces", content=b"").status_code == 401
    for process in ("order-api", "payment-worker", "payment-relay", "console-ops"):
        assert httpx.get(f"{here.stack.url(process)}/readyz").status_code == 200
        assert httpx.get(f"{here.stack.url(process)}/metrics").status_code == 200
    assert httpx.get(f"{here.stack.url('order-api')}/ops/intake").status_code == 200
    for process, path in (
        ("order-api", "intake"), ("payment-worker", "parked"), ("payment-relay", "relay"), ("console-ops", "parked"),
    ):  # fmt: skip
        got = httpx.get(f"{here.stack.url(process)}/ops/{path}", headers={"Authorization": "Bearer qk_live_nobody"})
        assert got.status_code == 401, process


def test_every_command_shows_the_stacks_own_key(here: Here) -> None:
    """The key is in a file of the person's own and in no output; orders are placed, followed, explained, traced."""
    file = here.home / "key"
    key = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(file) in here.said
    told = here.run("orders", "place", "--wait", "-o", "json", "--explain")
    order = json.JSONDecoder().raw_decode(told)[0]["order_id"]
    assert "Bearer $QUADRILLE_KEY" in told
    told += here.run("orders", "list") + here.run("orders", "show", order) + here.run("why", order, "--explain")
    told += here.run("status") + here.run("env") + here.run("login", "--explain") + here.run("up", "--detach")
    told += here.run("webhooks", "list") + here.run("audit", "list") + here.run("stuck") + here.run("logs")
    told += here.run("keys", "list")
    assert key not in here.said + told
    assert key.rpartition("_")[2] not in (here.home / "state.json").read_text()
    assert f"QUADRILLE_KEY={key}" in here.run("env", "--secrets")
    assert "degraded" not in here.run("status")


def test_traces_reach_the_console(here: Here) -> None:
    """Exporters show their key: the trace of an order is there, from every service."""
    told = here.run("orders", "place", "--wait", "-o", "json")
    order = json.loads(told)["order_id"]
    for _ in range(LOOKS):
        shown = httpx.get(
            f"{here.stack.url('console')}/v1/traces/{json.loads(told)['trace_id']}",
            headers={"Authorization": f"Bearer {(here.home / 'key').read_text().strip()}"},
        )
        if shown.status_code == 200 and {"order", "payment"} <= {span["service"] for span in shown.json()["spans"]}:
            break
    assert "payment" in here.run("trace", order)


def test_an_owner_elsewhere_has_orders_of_his_own(here: Here) -> None:
    """With an address and a key a person uses the stack as from afar: his orders are his, until his key is revoked."""
    mine = json.loads(here.run("orders", "place", "-o", "json"))["order_id"]
    made = json.loads(here.run("keys", "new", "--owner", "acme", "--scope", "orders:*", "-o", "json"))
    remote = {"URL": here.stack.url("order"), "KEY": made["key"]}
    for _ in range(LOOKS):  # within a second every process has heard of it
        if here.ends("orders", "list", **remote)[0] == 0:
            break
    placed = json.loads(here.run("orders", "place", "--wait", "-o", "json", "--reference", "his-basket", **remote))
    assert placed["status"] == "CONFIRMED"
    listed = json.loads(here.run("orders", "list", "-o", "json", **remote))
    assert [one["order_id"] for one in listed] == [placed["order_id"]]
    assert placed["order_id"] in here.run("orders", "show", "his-basket", **remote)
    assert "not-found" in here.run("orders", "show", mine, code=5, **remote)
    assert "required_scope webhooks:read" in here.run("webhooks", "list", code=2, **remote)
    assert placed["order_id"] not in here.run("orders", "list", "-o", "json")
    steps = here.run("watch", placed["order_id"], "-o", "jsonl", **remote).splitlines()
    assert [json.loads(step)["status"] for step in steps] == [step["status"] for step in placed["history"]]
    assert "events:read" in here.run("watch", "--limit", "1", code=2, **remote)
    here.run("orders", "cancel", placed["order_id"], "--operator", "--reason", "an operator may")

    here.run("keys", "revoke", made["id"])
    for _ in range(LOOKS):
        code, said = here.ends("orders", "list", **remote)
        if code:
            break
    assert (code, "unauthorized" in said, made["key"] in said) == (2, True, False)
