"""Keys on an ops port: another machine needs one for whatever it asks, this one for nothing; probes are for all."""

from __future__ import annotations

from pathlib import Path

from quadrille import keys
from quadrille.keys import Keyring
from quadrille.observability import degraded
from quadrille.ops import server as ops
from quadrille.ops.routes import OpsRoutes, ScopedRoute
from tests.chassis.ops.test_routes import ACT, ORDER, ROUTES, WHY, Caller, address_of_this_machine
from tests.chassis.support.key_files import Watch
from tests.chassis.support.key_files import write as write_keys

WANTED = {"how": "ONE", **WHY}


def test_with_keys_an_ops_port_takes_them_from_anywhere(tmp_path: Path) -> None:
    """From this machine nobody needs a key; from another one each route needs its scope, and the actor is the owner.

    A key that is shown is judged, wherever it comes from.
    """
    minted = [
        keys.mint("watcher", ["ops:read"], None), keys.mint("medic", ["ops:resolve"], None),
        keys.mint("root", ["admin"], None),
    ]  # fmt: skip
    write_keys(tmp_path / "keys.json", *(kept for _, kept in minted))
    watcher, medic, root = (token for token, _ in minted)
    ring = Keyring(tmp_path / "keys.json", 1000)
    mending = ScopedRoute("ops:resolve", ROUTES["POST", "/ops/orders/{order_id}/act"])
    routes: OpsRoutes = {**ROUTES, ("POST", "/ops/orders/{order_id}/mend"): mending}
    mend, act, look = ACT.replace("/act", "/mend"), ACT, f"/ops/orders/{ORDER}"
    outside = address_of_this_machine()
    with ops.serve("0.0.0.0:0", "payment", "worker", {}, routes=routes, keys=ring) as server:
        here, there = Caller(server.server_port), Caller(server.server_port, outside)
        assert here.ask("GET", look)[1]["actor"] == "local"
        assert here.ask("POST", act, WANTED)[1]["by"] == "local"
        for path in (look, look + "?state=a&other=b"):
            assert there.problem("GET", path)[0] == "unauthorized"
        assert there.problem("POST", mend, WANTED)[0] == "unauthorized"
        assert there.ask("GET", "/livez")[0] == 200
        assert there.ask("GET", "/metrics")[0] == 200

        for caller in (here, there):
            for key, path, body, needed in (
                (watcher, mend, WANTED, "ops:resolve"), (watcher, act, WANTED, "admin"), (medic, act, WANTED, "admin"),
                (medic, look, None, "ops:read"),
            ):  # fmt: skip
                slug, document = caller.problem("POST" if body else "GET", path, body, Authorization=f"Bearer {key}")
                assert (slug, document["required_scope"]) == ("insufficient-scope", needed)
            assert caller.problem("GET", look, Authorization="Bearer qk_live_x")[0] == "unauthorized"
            assert caller.ask("GET", look, Authorization=f"Bearer {watcher}")[1]["actor"] == "watcher"
            assert caller.ask("POST", mend, WANTED, Authorization=f"Bearer {medic}")[1]["by"] == "medic"
            assert caller.ask("POST", act, WANTED, Authorization=f"Bearer {root}")[1]["by"] == "root"
            caller.line.close()


def test_a_broken_file_of_keys_is_told_in_healthz(tmp_path: Path) -> None:
    """A port whose keys cannot be read any more says so, and stays ready."""
    for name in degraded.shown():  # by another test of this process
        degraded.Degraded(name).back()
    file, watch = tmp_path / "keys.json", Watch()
    write_keys(file)
    with ops.serve("127.0.0.1:0", "payment", "worker", {}, keys=Keyring(file, 50, watch)) as server:
        caller = Caller(server.server_port)
        assert caller.ask("GET", "/healthz")[1]["status"] == "pass"
        file.write_text("{")
        watch.pass_by(1)
        status, document, _ = caller.ask("GET", "/healthz")
        assert (status, document["status"]) == (200, "warn")
        assert "mend the file" in document["checks"]["keys"]["reason"]
        write_keys(file)
        watch.pass_by(1)
        assert caller.ask("GET", "/healthz")[1]["status"] == "pass"
        caller.line.close()
