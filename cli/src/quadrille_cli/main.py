"""The `quadrille` command: every noun and verb in one place, each loaded when it is called."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from quadrille_cli import complete, explain

app = typer.Typer(
    name="quadrille",
    help="Four services that dance without a conductor: the local stack, and what one asks of it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MORE = (
    "schema", "demo", "load", "saga", "orders", "resolve", "replay", "operations", "why", "stuck", "intake", "events",
    "timeline", "trace", "watch", "env", "parked", "consumers", "audit", "webhooks", "login", "keys", "version",
    "relay", "republish", "asyncapi", "doctor", "chaos", "findings", "audit-log",
)  # fmt: skip
"""Modules of ``commands`` that bring commands, a hyphen for each underscore of theirs.

Each has a typer `app` of its own, or one function `command`.
"""

HIGHEST_PORT, NOT_HERE = 65_535, 9
Data = Annotated[Path | None, typer.Option("--data", help="Data directory (default: $QUADRILLE_DATA or .quadrille).")]
UP = "Examples:  quadrille up --detach   |   quadrille up --fresh --port kafka=19092"
DOWN = "Examples:  quadrille down   |   quadrille down --wipe"
START = "Examples:  quadrille start payment-worker   |   quadrille start payment"
STOP = "Examples:  quadrille stop payment-worker   |   quadrille stop payment"
RESTART = "Examples:  quadrille restart payment   |   quadrille restart order-worker inventory-worker"
STATUS = "Examples:  quadrille status   |   quadrille status --resources"
LOGS = "Examples:  quadrille logs --level warning   |   quadrille logs -f --order 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
TOPICS = "Examples:  quadrille topics plan   |   quadrille topics apply"


@app.callback()
def _all(
    *,
    explained: Annotated[  # taken off the line before it is parsed, wherever it stands
        bool, typer.Option(explain.OPTION, help="With any command: tell the API calls behind it, on stderr.")
    ] = False,
) -> None:
    """Four services that dance without a conductor: the local stack, and what one asks of it."""
    del explained


@app.command(epilog=UP)
def up(  # noqa: PLR0913 - one parameter per option
    *,
    data: Data = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Stop what runs and begin with empty data.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running and return.")] = False,
    port: Annotated[list[str] | None, typer.Option("--port", help="PART=N; refused when it is busy.")] = None,
    jaeger: Annotated[bool, typer.Option("--jaeger", help="With a local Jaeger, built from its Go modules.")] = False,
    setting: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE for every service.")] = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", help="NAME: the default again.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Restart what runs code that was edited since.")] = False,
) -> None:
    """Start the whole stack: Kafka, registry, databases, sandbox, four services, console.

    What runs goes on; what is told another setting is started again. Settings and ports of this stack stay.
    """
    from quadrille_cli.commands import stack  # noqa: PLC0415

    asked = stack.Asked(
        given={name: int(value) for name, value in _pairs(port or [], "--port")},
        settings=_checked(dict(_pairs(setting or [], "--set"))),
        unset=unset or (),
        jaeger=jaeger,
        fresh=fresh,
        reload=reload,
    )
    _end(stack.up(data, asked, detach=detach))


@app.command(epilog=DOWN)
def down(
    *,
    data: Data = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove the data too.")] = False,
) -> None:
    """Stop the stack: exactly the processes that `up` started, in under ten seconds."""
    from quadrille_cli.commands import stack  # noqa: PLC0415

    _end(stack.down(data, wipe=wipe))


Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...", help="order-api, order (all three), worker, kafka.", autocompletion=complete.processes
    ),
]


@app.command(epilog=START)
def start(names: Names, *, data: Data = None) -> None:
    """Start processes of this stack that do not run, with its settings and on its ports."""
    from quadrille_cli.commands import stack  # noqa: PLC0415

    _end(stack.turn(data, "start", names))


@app.command(epilog=STOP)
def stop(names: Names, *, data: Data = None) -> None:
    """Stop processes of this stack; the others go on, and what is meant for these waits."""
    from quadrille_cli.commands import stack  # noqa: PLC0415

    _end(stack.turn(data, "stop", names))


@app.command(epilog=RESTART)
def restart(names: Names, *, data: Data = None) -> None:
    """Restart processes of this stack, as after an edit of their code."""
    from quadrille_cli.commands import stack  # noqa: PLC0415

    _end(stack.turn(data, "restart", names))


@app.command(epilog=STATUS)
def status(
    *,
    data: Data = None,
    config: Annotated[bool, typer.Option("--config", help="The settings of every process and their source.")] = False,
    resources: Annotated[bool, typer.Option("--resources", help="Memory and CPU of every process.")] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="table, wide or json.")] = "table",
    sample: Annotated[float | None, typer.Option("--sample", min=0, help="Seconds over which CPU is measured.")] = None,
) -> None:
    """Show how every process stands, what flows, waits or is refused, and in the last line what to do now."""
    from quadrille_cli.commands import stack  # noqa: PLC0415
    from quadrille_cli.commands import status as standing  # noqa: PLC0415

    if output not in ("table", "wide", "json"):
        raise typer.BadParameter("table, wide or json", param_hint="-o")  # noqa: TRY003, EM101 - typer prints it
    _end(stack.settings(data, output) if config else standing.status(data, output, sample, resources=resources))


@app.command(epilog=LOGS)
def logs(
    processes: Annotated[
        list[str] | None, typer.Argument(help="Only these, e.g. order-api kafka.", autocompletion=complete.processes)
    ] = None,
    *,
    data: Data = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written from now on.")] = False,
    order: Annotated[str, typer.Option("--order", help="Only this order's story: its id or the end of it.")] = "",
    level: Annotated[str, typer.Option("--level", help="At least debug, info, warning, error, critical.")] = "debug",
) -> None:
    """Print the logs of all processes as one, by time."""
    from quadrille_cli.commands import stack  # noqa: PLC0415
    from quadrille_cli.stack.logs import LEVELS, LogFilter  # noqa: PLC0415

    if level not in LEVELS:
        raise typer.BadParameter(", ".join(LEVELS), param_hint="--level")
    _end(stack.logs(data, processes or [], LogFilter(order, level), follow=follow))


@app.command(epilog=TOPICS)
def topics(
    verb: Annotated[str, typer.Argument(help="plan: what would be done; apply: do it; drift: exit 1 if they differ.")],
    data: Data = None,
    bootstrap: Annotated[str, typer.Option("--bootstrap", help="The broker (default: the local stack's).")] = "",
    events_retention: Annotated[
        str,
        typer.Option(
            envvar="QUADRILLE_EVENTS_RETENTION", help="How long events are kept: forever (default), 90d; 7d at least."
        ),
    ] = "",
) -> None:
    """Compare the declared topics with the broker's, and make what is missing.

    A topic that keeps its records for another time than declared is given that: longer loses nothing.
    """
    from quadrille_cli.commands import stack  # noqa: PLC0415

    if verb not in ("plan", "apply", "drift"):
        raise typer.BadParameter("plan, apply or drift", param_hint="VERB")  # noqa: TRY003, EM101 - typer prints it
    _end(stack.topics(data, verb, bootstrap, _retention("--events-retention", events_retention)))


def _retention(option: str, text: str) -> str:
    """Return how long events are kept, as it is written; refuses what is shorter than an inbox tells, or no time."""
    from quadrille_cli.stack.topics import kept  # noqa: PLC0415

    try:
        kept(text)
    except ValueError as refused:
        raise typer.BadParameter(str(refused), param_hint=option) from None
    return text


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for name, _, value in pairs:
        if not name or not value:
            raise typer.BadParameter(f"{name}: NAME=VALUE is wanted", param_hint=option)  # noqa: TRY003, EM102
        if option == "--port" and not (value.isdecimal() and 0 < int(value) <= HIGHEST_PORT):
            raise typer.BadParameter(f"{name}={value}: a port is 1 to {HIGHEST_PORT}", param_hint=option)  # noqa: TRY003, EM102
    return [(name, value) for name, _, value in pairs]


def _checked(settings: dict[str, str]) -> dict[str, str]:
    """Return the settings; refuses what a service would refuse, before anything that runs is ended for it."""
    from quadrille_cli.stack.topics import SETTING  # noqa: PLC0415

    _retention(f"--set {SETTING}", settings.get(SETTING, ""))
    ours = {name: value for name, value in settings.items() if name != SETTING}
    if ours:
        from quadrille.settings import PREFIX, SettingsError, parse  # noqa: PLC0415 - only here
        from quadrille_cli.services import all_settings  # noqa: PLC0415 - as above

        given = dict.fromkeys(("DATABASE_URL", "KAFKA_BOOTSTRAP", "REGISTRY_URL"), "http://the-stack-knows")
        if settings.get("AUTH") == "keys":
            given["KEYS_FILE"] = "the-stack-makes-it"
        try:
            named = {f"{PREFIX}{name}": value for name, value in (given | ours).items()}
            parse(all_settings(), (), named, Path(os.devnull))
        except SettingsError as refused:
            raise typer.BadParameter(str(refused), param_hint="--set") from None
    return settings


def _end(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _load_more(word: str) -> None:
    """Add the commands of the module named by the command's first word, of all of them for a help page."""
    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    if word in own:
        return
    for name in (word,) if word in MORE else MORE:
        file = name.replace("-", "_")
        if importlib.util.find_spec(f"quadrille_cli.commands.{file}") is not None:
            module = importlib.import_module(f"quadrille_cli.commands.{file}")
            if hasattr(module, "app"):
                app.add_typer(module.app, name=name)
            else:
                app.command(name, epilog=getattr(module, "EPILOG", None))(module.command)


def run() -> None:
    """The program's entry: what cannot run here is told in a line, with its fix; a traceback is a fault of ours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path, or a terminal, that is not of this world's letters
    try:
        sys.argv = explain.asked_for(sys.argv)
        _load_more(sys.argv[1] if len(sys.argv) > 1 else complete.first_word())
        app(prog_name="quadrille")
    except Exception as error:
        from quadrille_cli.stack.errors import foreseen  # noqa: PLC0415 - half a second that only a failure spends

        refused = foreseen(error)
        if refused is None:
            raise
        sys.stderr.write(f"{refused}\n")
        sys.exit(NOT_HERE)
