import pathlib, re, subprocess, sys
ROOT = pathlib.Path(sys.argv[1]); sys.path.insert(0, str(pathlib.Path(__file__).parent))
import plan
def git(*a): subprocess.run(["git", "-C", str(ROOT), *a], check=True)
# tests of the chassis go to tests/chassis/<package>/
SUPPORT = {"pantry": "sample_service", "pantry_words": "sample_messages", "kitchen": "kafka_harness", "oven": "sample_gateway", "workbench": "database", "rewinder": "replay_harness", "served": "http_harness", "records": "records", "raw_producer": "raw_producer"}
ROOMS = {
 "tasks": "agenda agenda_outages healing old_intents",
 "processing": "announce attempts attempts_plants commit commit_commands commit_plants commit_races effects facts",
 "avro": "avro_codec avro_ids avro_schemas avro_wire",
 "gateway": "breaker peer",
 "kafka": "envelope kafka_settings",
 "consumer": "listener listener_topics listener_trouble parking reading silence worker worker_plants",
 "db": "session tables upkeep",
 "observability": "logs tracing",
 "ops": "operators ops ops_routes",
 "relay": "pgoutput relay relay_crash relay_recovery relay_window",
 "replay": "replay replay_plans",
 "web": "intake strict_json waiting web",
 "": "ids registry rows settings words",
}
NAMES = {"agenda": "scheduler", "agenda_outages": "scheduler_outages", "healing": "breaker_recovery", "announce": "outbox", "attempts": "compensation", "attempts_plants": "compensation_plants",
 "commit": "batch", "commit_commands": "commands", "commit_plants": "batch_plants", "commit_races": "races", "facts": "system_messages", "avro_codec": "codec", "avro_ids": "registry", "avro_schemas": "schemas", "avro_wire": "decoder",
 "peer": "http_client", "envelope": "headers", "kafka_settings": "config", "listener": "loop", "listener_topics": "loop_topics", "listener_trouble": "loop_trouble", "reading": "deserializer", "silence": "heartbeat",
 "session": "connection", "tables": "schema", "upkeep": "retention", "operators": "actions", "ops": "server", "ops_routes": "routes", "relay_crash": "crash", "relay_recovery": "recovery", "relay_window": "window", "pgoutput": "pgoutput",
 "replay_plans": "plans", "replay": "replay", "intake": "command_batcher", "waiting": "sse", "web": "app", "strict_json": "strict_json", "registry": "handlers", "words": "messages"}
NAMES.update(plan.TEST_NAMES)
for room, more in plan.TEST_ROOMS.items(): ROOMS[room] = ROOMS.get(room, "") + " " + more
T = ROOT/"tests/chassis"; (T/"support").mkdir(parents=True, exist_ok=True)
where = {n: room for room, ns in ROOMS.items() for n in ns.split()}
moved = {}
for f in sorted((ROOT/"chassis/tests").glob("*.py")):
    n = f.stem
    if n in SUPPORT: new = T/"support"/(SUPPORT[n] + ".py")
    elif n == "conftest": new = T/"conftest.py"
    elif n.startswith("test_") and n[5:] in where:
        room = where[n[5:]]; base = NAMES.get(n[5:], n[5:])
        new = T/room/f"test_{base}.py"
    elif n.startswith("test_"):
        print("TEST WITHOUT A ROOM", n); new = T/f"{n}.py"
    else: print("HARNESS WITHOUT A NAME", n); new = T/"support"/f"{n}.py"; SUPPORT[n] = n
    new.parent.mkdir(parents=True, exist_ok=True)
    git("mv", str(f.relative_to(ROOT)), str(new.relative_to(ROOT)))
    moved[f"chassis/tests/{f.name}"] = str(new.relative_to(ROOT))
tests_by_old = {pathlib.Path(a).stem: b[:-3].replace("/", ".") for a, b in moved.items()}
for f in T.rglob("*.py"):
    s = o = f.read_text()
    for a, b in sorted(tests_by_old.items(), key=lambda x: -len(x[0])):
        if a.startswith("test_"): s = re.sub(rf"from chassis\.tests\.{a} import", f"from {b} import", s)
    def imports(mt):
        out = []
        for name in mt[1].split(","):
            name = name.strip()
            if name in tests_by_old:
                room, _, base = tests_by_old[name].rpartition(".")
                out.append(f"from {room} import {base}")
            else: out.append(f"from tests.chassis.support import {SUPPORT.get(name, name)}")
        return "\n".join(out)
    names = [n.strip() for mt in re.finditer(r"from chassis\.tests import ([^\n(]*)", s) for n in mt[1].split(",")]
    s = re.sub(r"from chassis\.tests import ([^\n(]*)", imports, s)
    for n in names:
        if n in tests_by_old: s = re.sub(rf"(?<![\w.]){n}\b(?=[.,)\]])", tests_by_old[n].rpartition(".")[2], s)
    if s != o: f.write_text(s)
def sub(path, *pairs):
    p = ROOT/path
    if not p.exists(): print("no", path); return
    s = p.read_text()
    for a, b in pairs:
        if a not in s: print(f"{path}: no {a!r}")
        s = s.replace(a, b)
    p.write_text(s)
for f in [ROOT/t for t in subprocess.run(["git","-C",str(ROOT),"ls-files"],capture_output=True,text=True).stdout.split()]:
    if not f.exists() or f.suffix not in (".py", ".md", ".toml", ".yaml", ".in") or f.name == "CHANGELOG.md": continue
    s = o = f.read_text()
    for a, b in SUPPORT.items():
        s = re.sub(rf"chassis\.tests\.{a}\b", f"tests.chassis.support.{b}", s)
    for a, b in sorted(moved.items(), key=lambda x: -len(x[0])): s = s.replace(a, b)
    # globs in documents
    for a, b in (("chassis/tests/test_commit*.py", "tests/chassis/processing"), ("chassis/tests/test_relay*.py", "tests/chassis/relay"), ("chassis/tests/test_avro_*.py", "tests/chassis/avro")):
        s = s.replace(a, b)
    # dotted names in texts and strings
    if f.suffix in (".py", ".md", ".toml"):
        def repl(mt):
            mod = "chassis." + mt[1]
            return plan.MODULES.get(mod, "quadrille." + mt[1] if mt[1] in ("ids","rows","settings","service") else mt[0])
        s = re.sub(r"(?<![\w./-])chassis\.([a-z_]+)(?![\w/])(?!\.avsc)", lambda mt: mt[0] if mt[1] in ("tests", "md", "avsc") else repl(mt), s)
        for old, new in plan.MODULES.items():
            if old.startswith("quadrille.") and f.suffix == ".py":
                s = s.replace(f'"{old}.', f'"{new}.')
    if s != o: f.write_text(s)
# usages of harness modules by their old short names
for f in T.rglob("*.py"):
    s = o = f.read_text()
    for a, b in SUPPORT.items():
        if re.search(rf"from tests\.chassis\.support import [^\n]*\b{b}\b", s):
            have = set(re.findall(r"^(?:def|class) (\w+)|^(\w+)[ :=]", (T/"support"/(b + ".py")).read_text(), re.M))
            have = {x or y for x, y in have}
            s = re.sub(rf"(?<![\w.\"']){a}\.(\w+)", lambda mt: f"{b}.{mt[1]}" if mt[1] in have else mt[0], s)
    if s != o: f.write_text(s)
sub("tests/chassis/support/kafka_harness.py", ("""import chassis
chassis.__path__.append({str(Path(__file__).parent.parent)!r})  # where this folder is found as chassis.tests
""", """import sys
sys.path.append({str(Path(__file__).parents[3])!r})  # where the tests are found
"""))
git("rm","-qf","conftest.py")
sub("tests/model/machine_house.py", ('cast("Peer"', 'cast("HttpClient"'), ('cast("Done"', 'cast("Handled"'))
sub("chassis/pyproject.toml", ('"src/chassis"', '"src/quadrille"'), ('"chassis/schemas"', '"quadrille/schemas"'))
sub("cli/pyproject.toml", ('"src/quadrille"', '"src/quadrille_cli"'), ('"quadrille.command:run"', '"quadrille_cli.command:run"'), ('quadrille = "quadrille.testing"', 'quadrille = "quadrille_cli.testing"'), ('= "quadrille/deploy', '= "quadrille_cli/deploy'), ('= "quadrille/schemas"', '= "quadrille_cli/schemas"'))
sub("sandbox/pyproject.toml", ('"src/sandbox"', '"src/quadrille_sandbox"'))
sub("pyproject.toml", ('testpaths = ["tests", "chassis/tests", "services", "cli/tests", "sandbox/tests"]', 'testpaths = ["tests", "services", "sandbox/tests"]'),
  ('root_packages = ["chassis", "order", "inventory", "payment", "notification", "quadrille", "sandbox"]', 'root_packages = ["quadrille", "order", "inventory", "payment", "notification", "quadrille_cli", "quadrille_sandbox"]'),
  ('modules = ["order", "inventory", "payment", "notification", "sandbox"]', 'modules = ["order", "inventory", "payment", "notification", "quadrille_sandbox"]'),
  ('source_modules = ["chassis"]', 'source_modules = ["quadrille"]'), ('forbidden_modules = ["order", "inventory", "payment", "notification", "quadrille", "sandbox"]', 'forbidden_modules = ["order", "inventory", "payment", "notification", "quadrille_cli", "quadrille_sandbox"]'),
  ('forbidden_modules = ["quadrille"]', 'forbidden_modules = ["quadrille_cli"]'))
sub("Makefile", ("from quadrille.stack import jaeger", "from quadrille_cli.stack.servers import jaeger"), ("-m quadrille ", "-m quadrille_cli "), ("$(wildcard services/*/src chassis/tests sandbox/tests services/*/tests bench)", "$(wildcard services/*/src sandbox/tests services/*/tests bench)"))
sub("tests/architecture/test_gates.py", ('["chassis/tests", "sandbox/tests", "tests"]', '["sandbox/tests", "tests"]'))

# prose: names of classes in docstrings and comments; a fact is an event
import tokenize, io
def prose(text):
    for a, b in plan.PROSE.items(): text = re.sub(rf"(?<![\w`.]){a}(?![\w])|(?<=`){a}(?=`)", b, text)
    text = re.sub(r"\b([Aa]) fact\b", r"\1n event", text)
    text = re.sub(r"\bfact('s|s)?\b(?! of life)", lambda mt: "event" + (mt[1] or ""), text)
    text = re.sub(r"\bFact(s)?\b", lambda mt: "Event" + (mt[1] or ""), text)
    text = re.sub(r"\b(an?) answer of the outside", r"\1 result of the outside", text)
    return text
def is_doc_string(tok, prev):
    return tok.type == tokenize.STRING and tok.string.lstrip("rbfRBF").startswith('"\""') and prev in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.ENCODING, tokenize.COMMENT, tokenize.DEDENT)
for f in [ROOT/t for t in subprocess.run(["git","-C",str(ROOT),"ls-files","--cached","--others","--exclude-standard"],capture_output=True,text=True).stdout.split()]:
    if not f.exists() or "migrations" in f.parts: continue
    if f.suffix == ".py":
        src = f.read_text(); edits = []; prev = tokenize.ENCODING
        for tok in tokenize.generate_tokens(io.StringIO(src).readline):
            if tok.type == tokenize.COMMENT or is_doc_string(tok, prev):
                new = prose(tok.string)
                if new != tok.string: edits.append((tok.start, tok.end, new))
            prev = tok.type
        ls = src.splitlines(keepends=True)
        for (r1, c1), (r2, c2), new in reversed(edits):
            head, tail = ls[r1-1][:c1], ls[r2-1][c2:]
            ls[r1-1:r2] = [head + new + tail]
        if edits: f.write_text("".join(ls))
    elif f.suffix == ".md" and f.name != "CHANGELOG.md" and "LICENSE" not in f.name:
        s0 = f.read_text(); s1 = prose(s0)
        if s1 != s0: f.write_text(s1)
