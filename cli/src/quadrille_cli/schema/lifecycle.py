"""The schemas of the services checked offline, put into a registry, compared with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from quadrille.avro import schemas
from quadrille.avro.registry import Registry
from quadrille.avro.schemas import Schema, UnsafeSchemaError
from quadrille_cli.schema import published as published_file
from quadrille_cli.schema import rules
from quadrille_cli.schema.published import Published

LEVEL = "FULL_TRANSITIVE"
AT_ONCE = 4

A = TypeVar("A")
B = TypeVar("B")


class SchemaRefusedError(Exception):
    """Schemas that may not be published, or a registry that does not take them; one finding a line."""

    def __init__(self, findings: Iterable[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(self.findings))


@dataclass(frozen=True, slots=True)
class Applied:
    """What is in the registry now: the ids of each record's versions, oldest first."""

    ids: dict[str, tuple[int, ...]]


def root() -> Path:
    """Return the directory of the schemas: the package's own, or the checkout's above it."""
    inside = Path(str(resources.files("quadrille_cli"))) / "schemas"
    for folder in (inside, *(above / "schemas" for above in Path(__file__).resolve().parents)):
        if (folder / published_file.FILE).is_file():
            return folder
    message = f"no schemas/{published_file.FILE} in the package or above it"
    raise FileNotFoundError(message)


def check(folder: Path) -> list[str]:
    """Say all that is wrong with the schemas of a directory, without any registry; nothing is the good answer."""
    files, wrong = rules.read(folder)
    published, changed = published_file.load(folder)
    new = published_file.unpublished(published, files)
    after = published_file.extended(published, new.values())
    clash = [finding for versions in after.versions.values() for finding in published_file.incompatible(versions)]
    gone = [f"{name}: published, its file is gone" for name in sorted(published.versions.keys() - files.keys())]
    unsaid = [f"{name}: not published yet: run quadrille schema publish" for name in sorted(new)]
    return [*wrong, *changed, *clash, *gone, *(unsaid if not clash else [])]


def publish(folder: Path) -> list[str]:
    """Add every new schema to ``published.json`` and return their names.

    Raises SchemaRefusedError if one may not be published.
    """
    files, wrong = rules.read(folder)
    published, changed = published_file.load(folder)
    new = published_file.unpublished(published, files)
    after = published_file.extended(published, new.values())
    clash = [finding for name in new for finding in published_file.incompatible(after.versions[name])]
    if wrong or changed or clash:
        raise SchemaRefusedError([*wrong, *changed, *clash])
    published_file.store(folder, after)
    return sorted(new)


def apply(url: str, folder: Path) -> Applied:
    """Have every published version in the registry, under its record's name; asked again, nothing changes.

    Args:
        url: base of the registry's Confluent-compatible interface.
        folder: the directory with ``published.json``.

    Raises SchemaRefusedError if the registry says no or gives an id for something else, RegistryUnavailableError if it
    is silent.
    """
    published, wrong = published_file.load(folder)
    if wrong:
        raise SchemaRefusedError(wrong)
    registry = Registry(url)
    _demand(registry)
    ids = _each(lambda record: register(registry, *record), published.versions.items())
    return Applied(dict(zip(published.versions, ids, strict=True)))


def diff(url: str, folder: Path) -> list[str]:
    """Say where the registry is not what was published; nothing is the good answer."""
    published, _ = published_file.load(folder)
    registry = Registry(url)
    level = _get(registry, "/config", "compatibilityLevel")
    status, subjects = registry.ask("GET", "/subjects")
    there = sorted(s for s in subjects or () if isinstance(s, str)) if status == 200 else []  # noqa: PLR2004 - HTTP
    found = dict(zip(there, _each(lambda name: _versions(registry, name), there), strict=True))
    unlike = [] if level == LEVEL else [f"compatibility is {level}, not {LEVEL}"]
    return [*unlike, *_missing(published, found), *_unknown(published, found)]


def _missing(published: Published, found: dict[str, list[str | None]]) -> list[str]:
    held = ((name, version.fingerprint in found.get(name, ())) for name, version in published)
    return [f"{name}: a published version is not in the registry" for name, there in held if not there]


def _unknown(published: Published, found: dict[str, list[str | None]]) -> list[str]:
    known = {(name, version.fingerprint) for name, version in published}
    extra = (name for name, prints in found.items() for fingerprint in prints if (name, fingerprint) not in known)
    return [f"{name}: the registry has a version that was never published" for name in extra]


def _each(do: Callable[[A], B], values: Iterable[A]) -> list[B]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(do, values))


def _demand(registry: Registry) -> None:
    if _get(registry, "/config", "compatibilityLevel") != LEVEL:
        status, _ = registry.ask("PUT", "/config", {"compatibility": LEVEL})
        if status != 200:  # noqa: PLR2004 - HTTP
            raise SchemaRefusedError([f"the registry does not take {LEVEL}: it answered {status}"])


def _get(registry: Registry, path: str, name: str) -> object:
    _, answer = registry.ask("GET", path)
    return answer.get(name) if isinstance(answer, dict) else None


def register(registry: Registry, name: str, versions: tuple[Schema, ...]) -> tuple[int, ...]:
    """Put a record's versions in, oldest first, and read each back by its id."""
    ids = []
    for schema in versions:
        number = registry.id_of(schema)
        if number is None:
            status, answer = registry.ask("POST", f"/subjects/{quote(name)}/versions", {"schema": schema.text})
            if not isinstance(answer, dict) or not isinstance(number := answer.get("id"), int):
                reason = answer.get("message") if isinstance(answer, dict) else None
                raise SchemaRefusedError([f"{name}: the registry answered {status}: {reason}"])
        if _fingerprint(registry.text_of(number)) != schema.fingerprint:
            raise SchemaRefusedError([f"{name}: the registry holds another schema under id {number}"])
        ids.append(number)
    return tuple(ids)


def _versions(registry: Registry, subject: str) -> list[str | None]:
    _, numbers = registry.ask("GET", f"/subjects/{quote(subject)}/versions")
    paths = [f"/subjects/{quote(subject)}/versions/{number}" for number in numbers or ()]
    return [_fingerprint(_get(registry, path, "schema")) for path in paths]


def _fingerprint(text: object) -> str | None:
    try:
        return schemas.parse(text).fingerprint if isinstance(text, str) else None
    except UnsafeSchemaError:
        return None
