"""up, down, status, logs: one stack per data directory, managed by pid and nothing broader."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from typer import echo

from quadrille_cli import console
from quadrille_cli.login_link import first_link
from quadrille_cli.stack import EVERYTHING, CannotRun, Stack, dev_keys, shell
from quadrille_cli.stack import logs as journal
from quadrille_cli.stack import paths as places
from quadrille_cli.stack import topics as declared
from quadrille_cli.stack.last_words import in_words
from quadrille_cli.stack.servers import jaeger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quadrille_cli.stack import Process

FAILED, NOT_HERE, UNREACHABLE, INTERRUPTED = 1, 9, 7, 130
WATCH = 0.5
WIDTH = 21


@dataclass(frozen=True, slots=True)
class Asked:
    """What `up` was asked for."""

    given: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    jaeger: bool = False
    fresh: bool = False
    reload: bool = False


def up(data: Path | None, asked: Asked, *, detach: bool) -> int:
    """Start what does not run yet; attached, it runs until Ctrl-C, unless some of it ran before: that is not ours."""
    where = places.data_dir(data)
    before = None if asked.fresh else Stack.found(where)
    ran = before is not None and any(process.running for process in before.processes.values())
    began = time.monotonic()
    try:
        with console.Checklist() as progress:
            stack = start(where, asked, progress)
    except CannotRun as refused:
        console.fail(str(refused))
        return NOT_HERE
    except KeyboardInterrupt:
        console.fail("interrupted: what was started has been ended")
        return INTERRUPTED
    _welcome(stack, time.monotonic() - began, detach=detach or ran)
    if ran and not detach:
        echo("it ran before this command, and is left running")
    return 0 if detach or ran else _watch(stack)


def start(data: Path, asked: Asked, progress: console.Checklist) -> Stack:
    """The whole stack in this directory, started; raises CannotRun."""
    for line in shell.unheard():
        progress.said(line)
    there = Stack.found(data)
    if there is not None and asked.fresh:
        there.stop()
        there.wipe()
    parts = set(EVERYTHING) | ({"jaeger"} if asked.jaeger else set())
    if asked.jaeger and not jaeger.available():
        progress.said(jaeger.NO_GO)
        parts.remove("jaeger")
    kept = {} if there is None or asked.fresh else there.settings
    kept = {name: value for name, value in kept.items() if name not in {*asked.unset, *asked.settings}}
    if kept:
        progress.said(f"this stack's settings stay: {', '.join(sorted(kept))} (one goes by --unset NAME)")
    settings = {**kept, **asked.settings}
    stack = Stack(data, parts=parts, given=asked.given, settings=settings, progress=progress, reload=asked.reload)
    stack.start()
    return stack


def down(data: Path | None, *, wipe: bool) -> int:
    """End exactly the processes of this stack."""
    where = places.data_dir(data)
    stack = Stack.found(where)
    if stack is None:
        echo(f"nothing was started in {where}")
        return 0
    running = [name for name, process in stack.processes.items() if process.running]
    took = stack.stop()
    if wipe:
        stack.wipe()
    kept = "the data is gone" if wipe else f"the data stays in {where}"
    echo(f"{len(running)} processes ended in {took:.1f} s, {kept}")
    return 0


def turn(data: Path | None, verb: str, names: Sequence[str]) -> int:
    """Start, stop or restart processes of this stack; exit 7 when there is none, 9 when one cannot be started."""
    stack = Stack.found(places.data_dir(data))
    if stack is None:
        console.fail("no stack was started here\n  fix: quadrille up --detach")
        return UNREACHABLE
    try:
        with console.Checklist() as progress:
            stack.progress = progress
            for name in names:
                stack.meant(name)  # refused before anything is ended
            ended = stack.halt(names) if verb != "start" else []
            begun = stack.begin(names) if verb != "stop" else []
    except CannotRun as refused:
        console.fail(str(refused))
        return NOT_HERE
    lines = {
        "ended": [name for name in ended if name not in begun],
        "started again": [name for name in ended if name in begun],
        "started": [name for name in begun if name not in ended],
    }
    for what, done in lines.items():
        if done:
            echo(f"{what}: {', '.join(done)}")
    if not (ended or begun):
        echo("nothing to do: it runs already" if verb == "start" else "nothing to do: it did not run")
    return 0


def settings(data: Path | None, output: str) -> int:
    """Print every process's settings and where each comes from; secrets as ***."""
    stack = Stack.found(places.data_dir(data))
    if stack is None:
        console.fail("no stack was started here\n  fix: quadrille up --detach")
        return UNREACHABLE
    rows = [row for process in stack.processes.values() for row in _settings(stack, process)]
    if output == "json":
        echo(
            json.dumps([dict(zip(("process", "name", "value", "source"), row, strict=True)) for row in rows], indent=2)
        )
    else:
        for process, name, value, source in rows:
            echo(f"{process:<{WIDTH}} {name:<20} {value:<60} {source}")
    return 0


def logs(data: Path | None, names: Sequence[str], only: journal.LogFilter, *, follow: bool) -> int:
    """Print the logs, merged; with follow until Ctrl-C."""
    home = places.data_dir(data) / "logs"
    files = {path.stem: path for path in sorted(home.glob("*.log"))}
    chosen = {name.replace(":", "-"): files.get(name.replace(":", "-")) for name in names or files}
    missing = [name for name, path in chosen.items() if path is None]
    if missing or not files:
        console.fail(f"no log of {', '.join(missing) or 'anything'} in {home}\n  fix: one of {', '.join(files)}")
        return UNREACHABLE
    paths = {name: path for name, path in chosen.items() if path is not None}
    if only.order:
        from quadrille_cli.commands.shared import NOT_FOUND, an_id, named  # noqa: PLC0415 - it asks of this module

        wanted = an_id("--order", only.order)
        told = sorted(journal.orders(paths, wanted))
        if not told and not follow:
            whose = ", ".join(names) or "any process"
            console.fail(f"no line of {whose} is about order {wanted}: it is unknown, or its lines are gone")
            return NOT_FOUND
        only = dataclasses.replace(only, order=named("--order", wanted, told) if told else wanted)
    shown = journal.pretty if sys.stdout.isatty() else "{:<21} {}".format
    try:
        for name, text in (journal.follow if follow else journal.merged)(paths, only):
            echo(shown(name, text))
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    return 0


def topics(data: Path | None, verb: str, bootstrap: str, events: str) -> int:
    """Plan, apply or judge the topics of the running stack or of a broker, events kept for so long."""
    stack = None if bootstrap else Stack.found(places.data_dir(data))
    if not bootstrap and (stack is None or "kafka" not in stack.ports):
        console.fail("no stack was started here\n  fix: quadrille up --detach, or name a broker: --bootstrap HOST:PORT")
        return UNREACHABLE
    broker = bootstrap or (stack.kafka_bootstrap if stack else "")
    kept = declared.kept(events or (stack.settings.get(declared.SETTING, "") if stack else ""))
    try:
        plan = declared.apply(broker, events=kept) if verb == "apply" else declared.plan(broker, kept)
    except KafkaException as unreachable:
        console.fail(f"no broker answers at {broker}: {unreachable.args[0].str()}\n  fix: quadrille up --detach")
        return UNREACHABLE
    done = "made" if verb == "apply" else "missing"
    for wanted in plan.create:
        echo(f"{done:<12} {wanted.name}  {wanted.partitions} partitions, {wanted.config}")
    for wanted in plan.configure:
        echo(f"{'set' if verb == 'apply' else 'differs':<12} {wanted.name}  {wanted.config}")
    for name, reason in plan.refused.items():
        echo(f"{'refused':<12} {name}  {reason}")
    same = not (plan.create or plan.configure or plan.refused)
    echo("as declared" if same else "")
    return FAILED if plan.refused or (verb == "drift" and not same) else 0


def _settings(stack: Stack, process: Process) -> list[tuple[str, str, str, str]]:
    rows = []
    for key, value in sorted(process.spec.env.items()):
        name = key.removeprefix("QUADRILLE_")
        if name != key:
            source = "--set" if name in stack.settings else "stack"
            rows.append((process.name, name, value.replace(stack.password, "***"), source))
    return rows


def _welcome(stack: Stack, seconds: float, *, detach: bool) -> None:
    running = sum(process.running for process in stack.processes.values())
    echo(f"{running} processes ready in {seconds:.1f} s, data in {stack.data}")
    echo(f"console   {first_link(stack, 'quadrille up')}")
    echo(f"API docs  {stack.url('order')}/docs")
    if dev_keys.own(stack):
        echo(f"API key   in {stack.data / dev_keys.PERSON}, for you alone; every command here shows it by itself")
    echo(f"mail      {stack.url('sandbox')}/mail")
    if "jaeger" in stack.parts:
        echo(f"traces    {stack.url('jaeger')}")
    echo("look      quadrille status | logs -f      stop  quadrille down" if detach else "Ctrl-C ends it all")


def _watch(stack: Stack) -> int:
    """Stay until Ctrl-C or SIGTERM, telling of any process that ends by itself."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lost: set[str] = set()
    try:
        while True:
            time.sleep(WATCH)
            for name, process in stack.processes.items():
                if name not in lost and not process.running and name != "aot-training":
                    lost.add(name)
                    process.ended, process.ended_at = in_words(process.exit_code()), time.time()
                    stack.save()
                    log = "\n".join(f"  | {line}" for line in process.log_tail())
                    console.fail(f"{name} has ended; its last lines:\n{log}\n  fix: quadrille start {name}")
    except KeyboardInterrupt:
        echo(f"all ended in {stack.stop():.1f} s")
    return 0
