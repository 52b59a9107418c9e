"""The design pages say what the code is: layers, tables, topics, settings, bounds, event names are held against it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import grimp
import pytest
from pydantic_core import PydanticUndefined

from quadrille import settings
from quadrille.db import schema
from quadrille.kafka import config
from quadrille.messages import Event
from quadrille.system_messages import SystemEvent
from quadrille_cli.saga.saga_map import saga_of
from quadrille_cli.services import PROGRAMS, SERVICES
from quadrille_cli.stack.topics import FOR_EVER, TOPICS

ROOT = Path(__file__).parents[2]
CHASSIS = ROOT / "chassis" / "src" / "quadrille"
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)


def page(name: str) -> str:
    """Return a page of docs/."""
    return (ROOT / "docs" / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """Return what stands under a heading, up to the next one of any level; raises ValueError if there is none."""
    if not (found := re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)):
        message = f"no section {title}"
        raise ValueError(message)
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table's rows that begin with a word of code."""
    cells = [[cell.strip() for cell in row.split(" | ")] for row in ROW.findall(text)]
    return [row for row in cells if row[0].startswith("`")]


def table(text: str) -> dict[str, str]:
    """Return the second cell of each row by the first, without backticks."""
    return {row[0].strip("`"): row[1].strip("`") for row in rows(text)}


def layers(text: str) -> list[list[str]]:
    """Return the layers a page draws, from the top."""
    [drawn] = re.findall(r"```layers\n(.*?)```", text, re.DOTALL)
    return [line.split() for line in drawn.splitlines()]


def upward(drawn: list[list[str]]) -> list[str]:
    """Return every import of the chassis that runs against the layers, or from or to what they do not name."""
    level = {name: number for number, line in enumerate(drawn) for name in line}
    graph = grimp.build_graph("quadrille", exclude_type_checking_imports=True, cache_dir=None)
    wrong = []
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            ours, theirs = (name.split(".")[1] for name in (f"{module}.", f"{other}."))
            if ours and theirs and level.get(ours, 99) > level.get(theirs, -1):
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


def test_the_layers_are_those_of_the_code() -> None:
    """Every package and module of the chassis is in the picture of layers, and no import runs upwards."""
    drawn = layers(page("architecture.md"))
    there = {path.stem for path in CHASSIS.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert {name for line in drawn for name in line} == there - {"__init__"}
    assert upward(drawn) == []


def test_a_planted_import_upwards_is_found() -> None:
    """With two layers exchanged the import that then runs upwards is named; so is what the picture leaves out."""
    drawn = layers(page("architecture.md"))
    [web], [tasks] = ([n for n, line in enumerate(drawn) if name in line] for name in ("consumer", "tasks"))
    drawn[web], drawn[tasks] = drawn[tasks], drawn[web]

    assert any(one.startswith("quadrille.consumer.worker imports quadrille.tasks") for one in upward(drawn))
    assert upward([[name for name in line if name != "ids"] for line in layers(page("architecture.md"))])


def test_every_package_is_described() -> None:
    """The page's table of packages names each package of the chassis, and no other."""
    described = {row[0].strip("`") for row in rows(section(page("architecture.md"), "Layers of the chassis"))}

    assert described == {path.parent.name for path in CHASSIS.glob("*/__init__.py")}


def test_the_files_a_message_passes_exist() -> None:
    """Each file and folder that the life of a message names is in the chassis."""
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", section(page("architecture.md"), "Life of a message"))

    assert [one for one in named if not (CHASSIS / one).exists()] == []
    assert len(named) > len(SERVICES)


def tables() -> set[str]:
    """Return the tables of the chassis' newest version."""
    statements = "\n".join(text for version in schema.VERSIONS.values() for text in version)
    named = set(re.findall(r"CREATE (?:UNLOGGED )?TABLE (\w+)", statements))
    for old, new in re.findall(r"ALTER TABLE (\w+) RENAME TO (\w+)", statements):
        named = named - {old} | {new}
    return named


def test_every_table_of_the_chassis_is_on_the_page() -> None:
    """The table of tables is complete."""
    described = {row[0].strip("`") for row in rows(section(page("contracts.md"), "4. Tables of the chassis"))}

    assert described == tables()


def test_every_topic_is_on_the_page() -> None:
    """Topics stand there with their retention as they are declared."""
    wanted = {one.name: "for ever" if one.retention_ms == FOR_EVER else "7 days" for one in TOPICS}

    assert {row[0].strip("`"): row[2] for row in rows(section(page("contracts.md"), "7. Topics"))} == wanted


def test_the_headers_are_those_of_a_record() -> None:
    """The ten headers stand there in their order."""
    from quadrille.kafka.headers import NAMES  # noqa: PLC0415 - the one test that needs it

    assert tuple(table(section(page("contracts.md"), "2. A record"))) == NAMES


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(
    ("title", "real"),
    [
        ("Kafka, every client", config.client_settings("")),
        ("Kafka, the relay's producer", config.producer_settings("")),
        ("Kafka, a worker's consumer", config.consumer_settings("", "")),
    ],
)
def test_every_setting_of_the_clients_has_its_reason(title: str, real: config.ClientSettings) -> None:
    """Each setting stands in its table with the value the client gets; what all clients share, in the first."""
    common = set() if title.endswith("client") else set(config.client_settings(""))
    wanted = {name: _plain(value) for name, value in real.items() if name not in {*common, "bootstrap.servers"}}
    wanted.pop("group.id", None)

    assert table(section(page("reliability.md"), title)) == wanted


def properties(path: str) -> dict[str, str]:
    """Return the settings of a file of ``name = value`` lines, without comments and quotes."""
    lines = ((ROOT / path).read_text("utf-8")).splitlines()
    pairs = (line.partition("#")[0].partition("=") for line in lines)
    return {name.strip(): value.strip().strip("'") for name, equals, value in pairs if equals}


@pytest.mark.parametrize(
    ("title", "file"),
    [("Kafka, the broker", "deploy/kafka/server.properties"), ("Postgres", "deploy/postgres/postgresql.conf")],
)
def test_the_servers_have_the_settings_with_a_reason(title: str, file: str) -> None:
    """Each setting that a table gives a reason for is in the server's file, with that value."""
    shown = table(section(page("reliability.md"), title))
    shown = {name: value for name, value in shown.items() if name not in ("owner", "app", "relay")}

    assert shown.items() <= properties(file).items()
    assert len(shown) > 10


def test_the_roles_have_the_settings_with_a_reason() -> None:
    """Each setting of a database role is as the table says."""
    sql = (ROOT / "deploy/postgres/roles.sql").read_text("utf-8")
    shown = [row for row in rows(section(page("reliability.md"), "Postgres")) if row[1].startswith("`")]
    missing = [
        row for row in shown if f"ALTER ROLE {row[0].strip('`')} SET {row[1].strip('`')} = '{row[2]}';" not in sql
    ]

    assert missing == []
    assert shown


def defaults() -> dict[str, object]:
    """Return every setting of every service with its default; one that all have with the default of most."""
    for service in PROGRAMS:  # a service may have settings of its own
        importlib.import_module(f"{service}.main")
    classes: list[type[settings.Settings]] = [*settings.Settings.__subclasses__(), settings.Settings]
    return {
        name: field.get_default(call_default_factory=True)
        for cls in classes
        for name, field in cls.model_fields.items()
    }


def _shown(text: str, default: object) -> object:
    """Return what a page's text says, in the kind of the default beside it."""
    if isinstance(default, timedelta):
        return settings.parse_duration(text)
    if text in ("–", "required"):
        return default if default in (None, (), "", {}, PydanticUndefined) else text
    if isinstance(default, bool):
        return text == "true"
    if isinstance(default, int) and text.endswith("B"):
        return settings.parse_size(text)
    return default if text == str(default) else text


def test_every_setting_is_on_the_page() -> None:
    """A service's settings stand there with their defaults."""
    shown, real = table(section(page("settings.md"), "Settings")), defaults()

    assert shown.keys() == real.keys()
    assert {name: _shown(shown[name], value) for name, value in real.items()} == real


UNITS = {"s": "s", "min": "m", "h": "h", "days": "d"}
CLOCK = re.compile(r"^\| [^|]+ \| (\d+) (\w+) \| `(\w+)` \|$", re.MULTILINE)


def test_the_clocks_of_the_law_are_the_settings() -> None:
    """Each clock of the law that one setting sets has that setting's default."""
    clocks = CLOCK.findall(section(page("law.md"), "Clocks"))
    real = defaults()

    assert {name: settings.parse_duration(number + UNITS[unit]) for number, unit, name in clocks} == {
        name: real[name] for _, _, name in clocks
    }
    assert len(clocks) > 4


def _real(path: str) -> float:
    """Return the number a dotted name stands for: a constant, or a field's default; a duration in seconds."""
    place, _, name = path.rpartition(".")
    module, _, cls = place.rpartition(".")
    owner = getattr(importlib.import_module(module), cls)() if cls[0].isupper() else importlib.import_module(place)
    value = getattr(owner, name)
    return float(value.total_seconds() if isinstance(value, timedelta) else value)


def bounds(text: str) -> Mapping[str, float]:
    """Return the bounds a table names by their place in the code."""
    found = re.findall(r"^\| [^|]*\(`(quadrille\.[\w.]+)`\) \| ([\d.]+) \|", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_every_bound_is_the_codes() -> None:
    """Each pool's size that the page names by its place in the code is the size there."""
    shown = bounds(section(page("choreography.md"), "How pools are sized"))

    assert shown == {name: _real(name) for name in shown}
    assert len(shown) >= 8


def test_a_wrong_bound_would_be_found() -> None:
    """The check reads numbers: another one differs."""
    shown = bounds("| x (`quadrille.tasks.executor.CALLS`) | 11 | why |\n")

    assert shown == {"quadrille.tasks.executor.CALLS": 11}
    assert _real("quadrille.tasks.executor.CALLS") == 10


def test_every_event_stands_beside_its_usual_name() -> None:
    """The table of names has each event that a service emits in the saga, and no other."""
    emitted = {kind: cls for service in saga_of() for kind, cls in service.emits(Event).items()}
    shown = table(section(page("choreography.md"), "Event names beside those of the literature"))

    assert set(shown) == {kind for kind, cls in emitted.items() if not issubclass(cls, SystemEvent)}


def test_the_invariants_cited_by_number_are_there() -> None:
    """The page has the invariants 1 to 21, each once: findings and tests name them by number."""
    assert re.findall(r"^\| (\d+) \|", section(page("law.md"), "Invariants"), re.MULTILINE) == [
        str(n) for n in range(1, 22)
    ]


def test_the_folders_that_check_invariants_exist() -> None:
    """Each folder of tests an invariant is said to be checked by is there."""
    named = re.findall(r"`((?:tests|services)/[\w/]+)`", section(page("law.md"), "Invariants"))

    assert [one for one in named if not (ROOT / one).is_dir()] == []


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page of docs/, and README.md to it."""
    index = page("README.md")
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}

    assert sorted(pages - set(re.findall(r"\]\(([^)#:]+)\)", index))) == []
    assert "(docs/README.md)" in (ROOT / "README.md").read_text("utf-8")
