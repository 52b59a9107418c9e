"""Rename attributes/methods/fields of classes: definitions by AST, uses where mypy then complains. attr.py ROOT RENAMES.txt (lines: Class old new)"""
import sys, re, ast, pathlib, subprocess, collections
ROOT = pathlib.Path(sys.argv[1]); lines = [l.split() for l in open(sys.argv[2]) if l.strip() and not l.startswith("#")]
want = {(c, o): n for c, o, n in lines}
tracked = [ROOT/t for t in subprocess.run(["git","-C",str(ROOT),"ls-files","--cached","--others","--exclude-standard","*.py"],capture_output=True,text=True).stdout.split()]
tracked = [t for t in tracked if t.exists()]
def replace(path, edits):
    """edits: (line, col, old, new) 1-based line, 0-based col in utf8 chars"""
    ls = path.read_text().split("\n")
    for line, col, old, new in sorted(set(edits), reverse=True):
        s = ls[line-1]
        if s[col:col+len(old)] != old:
            # search nearest to the right
            k = next((mt.start() for mt in re.finditer(rf"(?<![\w]){re.escape(old)}(?!\w)", s) if mt.start() >= col), None)
            if k is None: print("no", path, line, col, old); continue
            col = k
        ls[line-1] = s[:col] + new + s[col+len(old):]
    path.write_text("\n".join(ls))
params = {(c.split(".")[0], c.split(".")[1], o): n for (c, o), n in want.items() if "." in c}   # (class or "", function, param)
want = {k: v for k, v in want.items() if "." not in k[0]}
classes = {c for c, _ in want}
def rename_params():
    for f in tracked:
        src = f.read_text(); edits = []
        if not any(re.search(rf"def {fn}\b", src) for _, fn, _ in params): continue
        t = ast.parse(src); L = src.split("\n")
        owners = [(k.name, x) for k in ast.walk(t) if isinstance(k, ast.ClassDef) for x in k.body if isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef))]
        owners += [("", x) for x in t.body if isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for c, x in owners:
            for (pc, pf, po), pn in params.items():
                if pc == c and pf == x.name:
                    args = [a for a in (*x.args.posonlyargs, *x.args.args, *x.args.kwonlyargs) if a.arg == po]
                    for a in args: edits.append((a.lineno, len(L[a.lineno-1].encode()[:a.col_offset].decode()), po, pn)); done[f"{pc}.{pf}", po] += 1
                    if args:
                        for y in ast.walk(x):
                            if isinstance(y, ast.Name) and y.id == po: edits.append((y.lineno, len(L[y.lineno-1].encode()[:y.col_offset].decode()), po, pn))
        if edits: replace(f, edits)
done = collections.Counter()
for f in tracked:
    src = f.read_text()
    if not any(re.search(rf"class {c}\b", src) for c in classes): continue
    t = ast.parse(src); edits = []
    def add(line, bytecol, old, new, after=""):
        s = src.split("\n")[line-1]; col = len(s.encode()[:bytecol].decode())
        edits.append((line, col, old, new))
    for k in ast.walk(t):
        if isinstance(k, ast.ClassDef) and k.name in classes:
            m = {o: n for (c, o), n in want.items() if c == k.name}
            for x in k.body:
                if isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef)) and x.name in m:
                    add(x.lineno, x.col_offset + (4 if isinstance(x, ast.FunctionDef) else 10), x.name, m[x.name]); done[k.name, x.name] += 1
                if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name) and x.target.id in m:
                    add(x.lineno, x.target.col_offset, x.target.id, m[x.target.id]); done[k.name, x.target.id] += 1
                if isinstance(x, ast.Assign):
                    for y in x.targets:
                        if isinstance(y, ast.Name) and y.id in m: add(y.lineno, y.col_offset, y.id, m[y.id]); done[k.name, y.id] += 1
            for x in ast.walk(k):
                if isinstance(x, ast.Attribute) and isinstance(x.value, ast.Name) and x.value.id == "self" and x.attr in m:
                    add(x.end_lineno, x.end_col_offset - len(x.attr), x.attr, m[x.attr])
                    if isinstance(x.ctx, ast.Store): done[k.name, x.attr] += 1
    if edits: replace(f, edits)
rename_params()
for k in [*want, *((f"{c}.{f}", o) for c, f, o in params)]:
    if not done[k]: print("NOT DEFINED:", k)
TARGETS = "chassis/src cli/src sandbox/src deploy tests bench sandbox/tests".split() + [str(p.relative_to(ROOT)) for p in ROOT.glob("services/*/src")] + [str(p.relative_to(ROOT)) for p in ROOT.glob("services/*/tests")]
for round in range(12):
    out = subprocess.run([str(ROOT/".venv/bin/mypy"), "--no-error-summary", "--show-column-numbers", "--no-pretty", *TARGETS], cwd=ROOT, capture_output=True, text=True).stdout
    edits = collections.defaultdict(list)
    for l in out.splitlines():
        mt = re.match(r'([^:]+):(\d+):(\d+): error: (?:Item )?"(?:type\[)?(\w+)(?:\[.*?\])?\]?"(?: of .*?)? has no attribute "(\w+)"', l)
        if mt and (mt[4], mt[5]) in want:
            f = ROOT/mt[1]; src = f.read_text(); line, col = int(mt[2]), int(mt[3]) - 1
            for x in ast.walk(ast.parse(src)):
                if isinstance(x, ast.Attribute) and x.attr == mt[5] and x.lineno == line and len(src.split("\n")[line-1].encode()[:x.col_offset].decode()) == col:
                    s2 = src.split("\n")[x.end_lineno-1]; c2 = len(s2.encode()[:x.end_col_offset].decode()) - len(x.attr)
                    edits[f].append((x.end_lineno, c2, x.attr, want[mt[4], mt[5]]))
            continue
        mt = re.match(r'([^:]+):(\d+):(\d+): error: Unexpected keyword argument "(\w+)" for "(\w+)"(?: of "(\w+)")?', l)
        new = None
        if mt:
            new = want.get((mt[5], mt[4])) or params.get((mt[6] or "", mt[5], mt[4])) or (want.get((mt[6], mt[4])) if mt[5] == "replace" else None)
        if new:
            f = ROOT/mt[1]; src = f.read_text(); line = int(mt[2])
            for x in ast.walk(ast.parse(src)):
                if isinstance(x, ast.Call) and x.lineno <= line <= x.end_lineno:
                    fn = x.func; name = fn.id if isinstance(fn, ast.Name) else fn.attr if isinstance(fn, ast.Attribute) else ""
                    if name == mt[5]:
                        for kw in x.keywords:
                            if kw.arg == mt[4]:
                                s2 = src.split("\n")[kw.lineno-1]
                                edits[f].append((kw.lineno, len(s2.encode()[:kw.col_offset].decode()), kw.arg, new))
    if not edits: break
    n = sum(len(set(e)) for e in edits.values()); print("round", round, n)
    for f, e in edits.items(): replace(f, e)
print("\n".join(l for l in out.splitlines() if "error" in l))
