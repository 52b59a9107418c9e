"""promtool, Prometheus' own judge of rules, from Go modules: the tests of the alerts run it where it is built."""

from __future__ import annotations

from quadrille_cli.stack.servers.go_program import GoProgram

NO_GO = "no Go on this machine: the alerts' rules are not run by Prometheus' own promtool"
PROMTOOL = GoProgram(
    "promtool", "github.com/prometheus/prometheus/cmd/promtool", "prometheus", NO_GO, "install Go (package golang)"
)
binary, build, main = PROMTOOL.binary, PROMTOOL.build, PROMTOOL.main
