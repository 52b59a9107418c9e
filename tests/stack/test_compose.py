"""compose.yaml is the same stack as the one without Docker, and a valid Compose file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from quadrille.settings import ELSEWHERE, settings_of
from quadrille_cli import services
from quadrille_cli.stack import ports
from quadrille_cli.stack.servers import artifacts

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WHERE_A_BROKER_LIVES = ("listener", "log.dirs", "process.roles", "node.id", "controller.quorum")


def findings(document: object) -> list[str]:
    """What the Compose Specification's own schema says against a document."""
    schema = json.loads((ROOT / "deploy/compose/compose-spec.json").read_text())
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]


def test_it_is_a_valid_compose_file() -> None:
    """compose.yaml keeps to the Compose Specification's JSON schema."""
    assert findings(COMPOSE) == []


@pytest.mark.parametrize(
    "fault", [{"imagee": "postgres"}, {"ports": 9092}, {"depends_on": {"kafka": {"condition": "ready"}}}]
)
def test_the_schema_notices_a_planted_fault(fault: dict[str, Any]) -> None:
    """A misspelt key, a port of a wrong shape, an unknown condition: each turns the validation red."""
    broken = {**COMPOSE, "services": {**SERVICES, "kafka": {**SERVICES["kafka"], **fault}}}
    assert findings(broken)


def test_it_has_every_process_and_nothing_waits_for_a_stranger() -> None:
    """Four services in three roles and a migration each, the console, their databases, and all that they stand on."""
    wanted = {f"{service}-{role}" for service in services.SERVICES for role in (*ports.ROLES, "migrate")}
    wanted |= {f"postgres-{service}" for service in services.SERVICES}
    wanted |= {"console", "console-migrate", "postgres-console"}
    wanted |= {"kafka", "registry", "jaeger", "sandbox", "topics", "schemas", "prometheus", "grafana"}

    assert set(SERVICES) == wanted
    assert {name for service in SERVICES.values() for name in service.get("depends_on", {})} <= wanted


def test_it_runs_the_versions_of_the_stack_without_docker() -> None:
    """Kafka and Apicurio have the version of the lock files, and every image is pinned."""
    kafka = next(
        e for e in artifacts.entries(artifacts.KAFKA) if e.coordinate.startswith("org.apache.kafka:kafka_2.13")
    )
    registry = artifacts.entries(artifacts.REGISTRY)[0]

    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka.coordinate.split(':')[2]}"
    assert SERVICES["registry"]["image"] == f"apicurio/apicurio-registry:{registry.coordinate.split(':')[2]}"
    assert all(":" in s["image"] or s["image"] == "quadrille" for s in SERVICES.values())


def test_its_broker_has_the_settings_of_the_stack_without_docker() -> None:
    """Every line of deploy/kafka/server.properties is there, but for the broker's own addresses."""
    lines = (ROOT / "deploy/kafka/server.properties").read_text().splitlines()
    wanted = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    given = SERVICES["kafka"]["environment"]

    for name, value in wanted.items():
        if not any(word in name for word in WHERE_A_BROKER_LIVES):
            assert str(given[f"KAFKA_{name.upper().replace('.', '_')}"]) == value, name


def test_its_settings_exist() -> None:
    """Every QUADRILLE_ variable of a service's process is one the settings know."""
    elsewhere = {f"QUADRILLE_{name}" for name in ELSEWHERE}
    ours = {name: service for name, service in SERVICES.items() if service["image"] == "quadrille"}

    for name, process in ours.items():
        own = settings_of(head) if (head := name.partition("-")[0]) in services.PROGRAMS else services.all_settings()
        known = {f"QUADRILLE_{setting.upper()}" for setting in own.model_fields}
        assert set(process.get("environment", {})) <= known | elsewhere, name


def test_only_the_loopback_is_published() -> None:
    """No port is open to the network of the machine."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_prometheus_asks_every_process_under_its_own_names() -> None:
    """Each process of ours is scraped at the ops port it is told to open, with its service and role."""
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = {
        target: one["labels"] for job in jobs for one in job["static_configs"] for target in one["targets"]
    }  # fmt: skip
    wanted = {
        f"{service}-{role}:8101": {"service": service, "role": role}
        for service in services.SERVICES
        for role in ports.ROLES
    } | {"console:8101": {"service": "console", "role": "all"}}

    assert asked == wanted
    assert all(SERVICES[one.partition(":")[0]]["environment"]["QUADRILLE_OPS_BIND"] == "0.0.0.0:8101" for one in wanted)
    assert all(job["honor_labels"] for job in jobs)


def test_monitoring_is_asked_for() -> None:
    """Prometheus and Grafana start with their profile alone, and read what is in deploy/, without writing there."""
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["profiles"] == ["monitoring"]
        ours = [volume for volume in SERVICES[name]["volumes"] if volume.startswith("./")]
        assert all(volume.endswith(":ro") and (ROOT / volume.split(":")[0]).is_dir() for volume in ours)
        assert ours
