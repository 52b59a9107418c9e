"""Move modules and symbols of a checkout by a plan; rewrites every import and module-attribute use. Usage: restructure.py ROOT PLAN"""
import sys, os, re, subprocess, importlib.util, pathlib
from collections import defaultdict, OrderedDict
import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, ScopeProvider, QualifiedNameProvider

ROOT = pathlib.Path(sys.argv[1]); 
spec = importlib.util.spec_from_file_location("plan", sys.argv[2]); plan = importlib.util.module_from_spec(spec); spec.loader.exec_module(plan)
SRC = plan.SRC            # old package -> old src dir
NEWSRC = plan.NEWSRC      # new package -> new src dir
MODS = plan.MODULES       # old dotted -> new dotted
SYMS = plan.SYMBOLS       # (old module, symbol) -> new dotted module
REN = plan.RENAMES        # (old module, symbol) -> new name
FIRSTNAMES = plan.MODNAMES # preferred local binding for a new module: dotted -> name (default: last part)

def modfile(dotted, srcs):
    top = dotted.split('.')[0]
    base = ROOT / srcs[top]
    rel = pathlib.Path(*dotted.split('.'))
    f = base / rel.with_suffix('.py')
    if f.exists(): return f
    return base / rel / '__init__.py'

old_modules = {}
for pkg, src in SRC.items():
    for f in sorted((ROOT/src/pkg).rglob('*.py')):
        rel = f.relative_to(ROOT/src).with_suffix('')
        parts = list(rel.parts)
        if parts[-1] == '__init__': parts = parts[:-1]
        old_modules['.'.join(parts)] = f

def newmod(old):
    if old in MODS: return MODS[old]
    pkg = old.split('.')[0]
    if old in old_modules and pkg in plan.PACKAGES:
        return plan.PACKAGES[pkg] + old[len(pkg):]
    return None

for o in MODS:
    if o not in old_modules: print("PLAN: no such module", o)

def top_names(body):
    out = OrderedDict()
    for st in body:
        for n in names_of(st): out[n] = st
    return out

def names_of(st):
    if isinstance(st, (cst.FunctionDef, cst.ClassDef)): return [st.name.value]
    if isinstance(st, cst.SimpleStatementLine):
        r = []
        for s in st.body:
            if isinstance(s, cst.Assign):
                for t in s.targets:
                    if isinstance(t.target, cst.Name): r.append(t.target.value)
                    elif isinstance(t.target, cst.Tuple): r += [e.value.value for e in t.target.elements if isinstance(e.value, cst.Name)]
            elif isinstance(s, cst.AnnAssign) and isinstance(s.target, cst.Name): r.append(s.target.value)
        return r
    return []

defs = {}   # old module -> set of top-level names
trees = {}
for mod, f in old_modules.items():
    trees[mod] = cst.parse_module(f.read_text())
    defs[mod] = set(top_names(trees[mod].body))

reexports = {}
for mod, t in trees.items():
    for st in t.body:
        if isinstance(st, cst.SimpleStatementLine):
            for s_ in st.body:
                if isinstance(s_, cst.ImportFrom) and s_.module is not None and not s_.relative and not isinstance(s_.names, cst.ImportStar):
                    d_ = '.'.join([]) or None
                    def _d(n): return n.value if isinstance(n, cst.Name) else _d(n.value) + '.' + n.attr.value
                    d_ = _d(s_.module)
                    if d_ in old_modules:
                        for a in s_.names:
                            reexports[mod, a.asname.name.value if a.asname else a.name.value] = (d_, a.name.value)

FACES = getattr(plan, "FACES", set())
def dest(oldmod, name):
    """(newmodule, newname) of a symbol in an old module, where it is defined."""
    while name not in defs[oldmod] and (oldmod, name) in reexports and oldmod not in FACES:
        up = reexports[oldmod, name]
        if f"{up[0]}.{up[1]}" in old_modules and up[1] not in defs[up[0]]: break
        oldmod, name = up
    nm = SYMS.get((oldmod, name)) or newmod(oldmod)
    return nm, REN.get((oldmod, name), name)

def dotted(node):
    if isinstance(node, cst.Name): return node.value
    if isinstance(node, cst.Attribute): return dotted(node.value) + '.' + node.attr.value
    raise TypeError(node)

def node_of(dottedname):
    parts = dottedname.split('.')
    n = cst.Name(parts[0])
    for p in parts[1:]: n = cst.Attribute(n, cst.Name(p))
    return n

problems = []

class Rewriter(cst.CSTTransformer):
    """Rewrites imports and uses in one file. `own` = new module this code will live in (or None)."""
    METADATA_DEPENDENCIES = (ScopeProvider,)
    def __init__(self, label, own=None, oldmod=None):
        super().__init__()
        self.label, self.own, self.oldmod = label, own, oldmod
        self.modbind = {}      # local name -> old module (bound by import of module)
        self.symbind = {}      # local name -> (oldmod, symbol)
        self.newlocal = {}     # local name -> replacement expr string (for plain Name uses)
        self.extra = []        # new imports needed: (module, name|None)
        self.tc = False
    def plan_imports(self, tree):
        self.bound_names = set()
        class B(cst.CSTVisitor):
            def __init__(s): s.names=set()
            def visit_Param(s, n): s.names.add(n.name.value)
            def visit_AssignTarget(s, n):
                for x in m.findall(n.target, m.Name()): s.names.add(x.value)
            def visit_AnnAssign(s, n):
                if isinstance(n.target, cst.Name): s.names.add(n.target.value)
            def visit_For(s, n):
                for x in m.findall(n.target, m.Name()): s.names.add(x.value)
            def visit_CompFor(s, n):
                for x in m.findall(n.target, m.Name()): s.names.add(x.value)
            def visit_FunctionDef(s, n): s.names.add(n.name.value)
            def visit_ClassDef(s, n): s.names.add(n.name.value)
            def visit_NamedExpr(s, n):
                for x in m.findall(n.target, m.Name()): s.names.add(x.value)
            def visit_AsName(s, n):
                for x in m.findall(n.name, m.Name()): s.names.add(x.value)
        b = B(); tree.visit(b); self.bound_names = b.names
    def is_mod(self, d): return d in old_modules and newmod(d) is not None
    # imports -----------------------------------------------------------
    def leave_SimpleStatementLine(self, o, u):
        if not any(isinstance(s, (cst.ImportFrom, cst.Import)) for s in o.body): return u
        out = []
        for s, so in zip(u.body, o.body):
            if isinstance(so, cst.ImportFrom): out += self.from_(so)
            elif isinstance(so, cst.Import): out += self.imp(so)
            else: out.append(s)
        if not out: return cst.RemoveFromParent()
        lines = []
        for i, s in enumerate(out):
            if isinstance(s, cst.BaseSmallStatement):
                lines.append(u.with_changes(body=[s], leading_lines=u.leading_lines if i == 0 else [], ))
        return cst.FlattenSentinel(lines)
    def from_(self, s):
        if s.relative or s.module is None: return [s]
        d = dotted(s.module)
        if isinstance(s.names, cst.ImportStar): return [s]
        if not (d in old_modules and (newmod(d) or d in plan.PACKAGES)): 
            return [s]
        groups = OrderedDict()
        keep = []
        for a in s.names:
            name = a.name.value; asname = a.asname.name.value if a.asname else None
            sub = f"{d}.{name}"
            if sub in old_modules and name not in defs.get(d, ()):      # a module
                nm = newmod(sub)
                if nm == self.own:
                    continue   # uses become bare names
                pkg, _, base = nm.rpartition('.')
                local = asname or name
                newlocal = self.local_for(nm, local, asname)
                groups.setdefault(pkg, []).append((base, newlocal if newlocal != base else None))
            else:
                nm, nn = dest(d, name)
                if nm is None: keep.append(a); continue
                if nm == self.own: 
                    continue
                local = asname or name
                newl = asname or nn
                groups.setdefault(nm, []).append((nn, newl if newl != nn else None))
        out = []
        for pkg, names in groups.items():
            seen = set(); al = []
            for n, as_ in names:
                if (n, as_) in seen: continue
                seen.add((n, as_))
                al.append(cst.ImportAlias(cst.Name(n), asname=cst.AsName(cst.Name(as_)) if as_ else None))
            out.append(cst.ImportFrom(module=node_of(pkg), names=al))
        if keep: out.append(s.with_changes(names=keep, lpar=None, rpar=None))
        return out
    def local_for(self, nm, local, asname):
        if asname: return asname
        base = FIRSTNAMES.get(nm, nm.rpartition('.')[2])
        if base == local: return base
        if base in self.bound_names:
            problems.append(f"{self.label}: module {nm} keeps the local name {local}: {base} is bound here")
            return local
        return base
    def imp(self, s):
        al = []
        for a in s.names:
            d = dotted(a.name)
            nm = newmod(d) if d in old_modules else None
            if nm is None and d in plan.PACKAGES: nm = plan.PACKAGES[d]
            if nm is None: al.append(a)
            elif a.asname:
                al.append(a.with_changes(name=node_of(nm)))
            else:
                al.append(a.with_changes(name=node_of(nm)))
                problems.append(f"{self.label}: plain import {d}: uses are left to hand")
        return [s.with_changes(names=al)] if al else []
    # uses ----------------------------------------------------------------
    def binding(self, node):
        """old dotted thing a Name refers to by import, else None"""
        scope = self.get_metadata(ScopeProvider, node, None)
        if scope is None: return None
        for asg in scope[node.value]:
            if isinstance(asg, cst.metadata.ImportAssignment):
                imp = asg.node
                if isinstance(imp, cst.ImportFrom) and imp.module is not None and not imp.relative:
                    d = dotted(imp.module)
                    if d not in old_modules: return None
                    for a in imp.names:
                        local = a.asname.name.value if a.asname else a.name.value
                        if local == node.value:
                            sub = f"{d}.{a.name.value}"
                            if sub in old_modules and a.name.value not in defs.get(d, ()): return ('mod', sub, bool(a.asname))
                            return ('sym', d, a.name.value, bool(a.asname))
                elif isinstance(imp, cst.Import):
                    for a in imp.names:
                        if a.asname and a.asname.name.value == node.value and dotted(a.name) in old_modules:
                            return ('mod', dotted(a.name), True)
            elif self.oldmod and isinstance(asg, cst.metadata.Assignment) and isinstance(asg.scope, cst.metadata.GlobalScope):
                return ('own', self.oldmod, node.value)
        return None
    def leave_Attribute(self, o, u):
        if isinstance(o.value, cst.Name):
            b = self.binding(o.value)
            if b and b[0] == 'mod':
                nm, nn = dest(b[1], o.attr.value)
                if nm == self.own: return cst.Name(nn)
                base_nm = newmod(b[1])
                if nm != base_nm:   # symbol moved elsewhere: import it by name
                    self.extra.append((nm, nn))
                    return cst.Name(nn)
                local = self.local_for(nm, o.value.value, o.value.value if b[2] else None)
                return cst.Attribute(cst.Name(local), cst.Name(nn), lpar=u.lpar, rpar=u.rpar)
        return u
    def leave_Name(self, o, u):
        b = self.binding(o)
        if not b: return u
        if b[0] == 'sym' and not b[3]:
            nm, nn = dest(b[1], b[2])
            return u.with_changes(value=nn)
        if b[0] == 'own':
            nm, nn = dest(b[1], b[2])
            if nm and nm != self.own and b[2] in defs[b[1]] and b[2] != 'log':
                self.extra.append((nm, nn))
            return u.with_changes(value=nn) if (b[1], b[2]) in REN else u
        if b[0] == 'mod' and not b[2]:
            nm = newmod(b[1])
            if nm == self.own: return u
            return u.with_changes(value=self.local_for(nm, o.value, None))
        return u
    def leave_FunctionDef(self, o, u): return self._def(o, u)
    def leave_ClassDef(self, o, u): return self._def(o, u)
    def _def(self, o, u):
        return u.with_changes(name=o.name) if False else u

def rewrite(tree, label, own=None, oldmod=None):
    w = MetadataWrapper(tree)
    r = Rewriter(label, own, oldmod); r.plan_imports(tree)
    new = w.visit(r)
    return new, r

# ---- build new modules -------------------------------------------------
targets = defaultdict(list)  # new module -> [old modules]
for mod in old_modules:
    nm = newmod(mod)
    if nm: targets[nm].append(mod)

order_in_plan = list(MODS)
def is_tc(st):
    return isinstance(st, cst.If) and m.matches(st.test, m.Name("TYPE_CHECKING"))
def is_import(st):
    return isinstance(st, cst.SimpleStatementLine) and all(isinstance(s, (cst.Import, cst.ImportFrom)) for s in st.body)
def is_doc(st):
    return isinstance(st, cst.SimpleStatementLine) and m.matches(st.body[0], m.Expr(m.SimpleString()))
def is_all(st): return names_of(st) == ['__all__']
def is_future(st): return is_import(st) and isinstance(st.body[0], cst.ImportFrom) and st.body[0].module is not None and dotted(st.body[0].module) == '__future__'

chunks = defaultdict(list)   # new module -> list of (oldmod, kind, parts)
for nm, olds in targets.items():
    prim = [o for o in olds]
    prim.sort(key=lambda o: order_in_plan.index(o) if o in order_in_plan else -1)
    for o in prim: chunks[nm].append(('mod', o, None))
symgroups = defaultdict(list)
for (om, s), nm in SYMS.items():
    if om not in old_modules: print("PLAN: no module for symbol", om, s); continue
    if s not in defs[om]: print("PLAN: no symbol", om, s); continue
    symgroups[nm, om].append(s)
for (nm, om), ss in symgroups.items():
    chunks[nm].append(('sym', om, set(ss)))

written = {}
removed = set()
for nm, parts in chunks.items():
    pieces = []
    for kind, om, ss in parts:
        tree = trees[om]
        new, r = rewrite(tree, om, own=nm, oldmod=om)
        doc, imports, tc, body, alls = None, [], [], [], None
        first = True
        for st_old, st in zip_align(tree.body, new.body) if False else [(None, s) for s in new.body]:
            if first and is_doc(st): doc = st; first = False; continue
            first = False
            if is_future(st): continue
            if is_import(st): imports.append(st); continue
            if is_tc(st): tc += list(st.body.body); continue
            if is_all(st): alls = st; continue
            body.append(st)
        moved_away = {REN.get((om, s), s) for (o2, s), n2 in SYMS.items() if o2 == om and n2 != nm}
        if kind == 'sym':
            wanted = {REN.get((om, s), s) for s in ss}
            body = [st for st in body if set(names_of(st)) & wanted]
            doc, alls = None, None
        else:
            body2 = []
            prev_gone = False
            for st in body:
                ns = names_of(st)
                if ns and set(ns) <= moved_away: prev_gone = True; continue
                if prev_gone and is_doc(st): continue     # an attribute docstring
                prev_gone = False
                body2.append(st)
            body = body2
        pieces.append(dict(kind=kind, om=om, doc=doc, imports=imports, tc=tc, body=body, alls=alls, extra=r.extra))
    # order: a piece whose module is imported by another comes first
    def deps(p):
        ds = set()
        for st in trees[p['om']].body:
            if is_import(st):
                for s in st.body:
                    if isinstance(s, cst.ImportFrom) and s.module is not None:
                        d = dotted(s.module); ds.add(d)
                        if not isinstance(s.names, cst.ImportStar):
                            ds |= {f"{d}.{a.name.value}" for a in s.names}
        return ds
    ordered = []
    todo = pieces[:]
    while todo:
        for p in todo:
            d = deps(p)
            if not any(q is not p and q['om'] in d and not (q['kind']=='sym') for q in todo):
                ordered.append(p); todo.remove(p); break
        else:
            print("CIRCLE inside", nm, [p['om'] for p in todo]); ordered += todo; break
    seen = {}
    for p in ordered:
        for st in p['body']:
            for n in names_of(st):
                if n in seen and n not in ('log', '_'):
                    print(f"COLLISION in {nm}: {n} of {p['om']} and {seen[n]}")
                seen.setdefault(n, p['om'])
    primary = pieces[0]
    body = []
    logs = 0
    texts = set()
    for p in ordered:
        for st in p['body']:
            text = cst.Module(body=[st]).code.strip()
            if isinstance(st, cst.SimpleStatementLine) and names_of(st) and text in texts: continue
            texts.add(text)
            if names_of(st) == ['log']:
                logs += 1
                if logs > 1: continue
            body.append(st)
    if not logs and any('log' in defs[p['om']] for p in ordered) and re.search(r"\blog\.", cst.Module(body=body).code):
        body.insert(0, cst.parse_statement("log = structlog.get_logger()"))
    imports = [st for p in ordered for st in p['imports']]
    extra = sorted({e for p in ordered for e in p['extra'] if e[0] != nm})
    for mod_, name_ in extra:
        imports.append(cst.SimpleStatementLine([cst.ImportFrom(module=node_of(mod_), names=[cst.ImportAlias(cst.Name(name_))])]))
    tc = [st for p in ordered for st in p['tc']]
    doc = primary['doc'] or next((p['doc'] for p in pieces if p['doc']), None)
    alls = [p['alls'] for p in pieces if p['alls']]
    head = ([doc] if doc else []) 
    fut = cst.parse_statement("from __future__ import annotations")
    stmts = head + [fut] + imports
    if tc:
        stmts.append(cst.If(test=cst.Name("TYPE_CHECKING"), body=cst.IndentedBlock(tc)))
    if alls:
        names = []
        for a in alls:
            names += [e.value.value for e in a.body[0].value.elements]
        here = set(top_names(body)) | {x.asname.name.value if x.asname else x.name.value for st in imports if isinstance(st, cst.SimpleStatementLine) for s_ in st.body if isinstance(s_, cst.ImportFrom) for x in s_.names} if nm in {newmod(f) for f in FACES} else set(top_names(body))
        back = {}
        for (om_, s_), n_ in REN.items():
            if om_ in [p['om'] for p in pieces]: back[f'"{s_}"'] = f'"{n_}"'
        names = [back.get(n, n) for n in names]
        names = [n for n in names if n.strip('"') in here]
        stmts.append(cst.parse_statement("__all__ = [" + ", ".join(sorted(set(names))) + "]"))
    written[nm] = (cst.Module(body=stmts + body).code, len(pieces), imports or body)

# ---- other files ---------------------------------------------------------
tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "*.py"], capture_output=True, text=True).stdout.split()
oldfiles = {f.resolve() for f in old_modules.values()}
others = [ROOT/t for t in tracked if (ROOT/t).resolve() not in oldfiles and (ROOT/t).exists()]
results = {}
for f in others:
    t = cst.parse_module(f.read_text())
    new, r = rewrite(t, str(f.relative_to(ROOT)))
    code = new.code
    ex = sorted(set(r.extra))
    if ex:
        lines = "\n".join(f"from {a} import {b}" for a, b in ex)
        code = re.sub(r"(from __future__ import annotations\n)", r"\1\n" + lines + "\n", code, count=1) if "from __future__" in code else lines + "\n" + code
    if code != f.read_text(): results[f] = code

# ---- write ------------------------------------------------------------
for nm, olds in targets.items():
    pass
for pkg, src in SRC.items():
    newpkg = plan.PACKAGES.get(pkg)
    if not newpkg or newpkg == pkg: continue
# git mv package dirs for history: first to a temp name
tmp = {}
for pkg, src in SRC.items():
    d = ROOT/src/pkg
    t = ROOT/src/("__old_"+pkg)
    subprocess.run(["git", "-C", ROOT, "mv", d, t], check=True); tmp[pkg] = t
for pkg, src in SRC.items():
    newpkg = plan.PACKAGES[pkg]; base = ROOT/src/newpkg
    base.mkdir(parents=True, exist_ok=True)
    for f in sorted(tmp[pkg].rglob('*')):
        if f.is_file() and f.suffix != '.py' and '__pycache__' not in f.parts:
            t = base/f.relative_to(tmp[pkg]); t.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "-C", ROOT, "mv", f, t], check=True)
for nm, (code, n, _) in written.items():
    top = nm.split('.')[0]
    base = ROOT/NEWSRC[top]
    rel = pathlib.Path(*nm.split('.'))
    is_pkg = nm in NEWSRC or any(o.startswith(nm + '.') for o in written) 
    f = base/rel/'__init__.py' if is_pkg else base/rel.with_suffix('.py')
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_text(code)
for pkg, src in SRC.items():
    import shutil; shutil.rmtree(tmp[pkg])
# package __init__
for top, src in NEWSRC.items():
    base = ROOT/src/top
    for d in [base, *[x for x in base.rglob('*') if x.is_dir() and any(x.glob('*.py'))]]:
        if '__pycache__' in d.parts: continue
        i = d/'__init__.py'
        if not i.exists(): 
            dn = top + ('.' + '.'.join(d.relative_to(base).parts) if d != base else '')
            i.write_text(f'"""{plan.DOCS.get(dn, dn)}"""\n')
for f, code in results.items(): f.write_text(code)
for p in sorted(set(problems)): print("NOTE", p)
