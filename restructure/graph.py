import grimp, collections, sys
g=grimp.build_graph("quadrille", "quadrille_cli", "quadrille_sandbox", exclude_type_checking_imports=False)
def pk(m):
    p=m.split('.')
    return '.'.join(p[:2]) if len(p)>1 else m
e=collections.defaultdict(set)
for m in g.modules:
    for d in g.find_modules_directly_imported_by(m):
        if pk(m)!=pk(d): e[pk(m),pk(d)].add((m,d))
import itertools
succ=collections.defaultdict(set)
for a,b in e: succ[a].add(b)
# sccs
idx={};low={};st=[];out=[];c=itertools.count()
def visit(v):
    idx[v]=low[v]=next(c);st.append(v)
    for w in succ[v]:
        if w not in idx: visit(w);low[v]=min(low[v],low[w])
        elif w in st: low[v]=min(low[v],idx[w])
    if low[v]==idx[v]:
        s=[]
        while True:
            w=st.pop();s.append(w)
            if w==v:break
        if len(s)>1: out.append(s)
sys.setrecursionlimit(9999)
for v in list(succ): 
    if v not in idx: visit(v)
print("package circles:",out)
for s in out:
    for a in s:
        for b in s:
            if (a,b) in e: print(a,'->',b, sorted((x.split('.',1)[1],y.split('.',1)[1]) for x,y in e[a,b]))
mods=[m for m in g.modules]
# module circles
idx.clear();low.clear();st.clear();out2=out;out=[]
succ=collections.defaultdict(set,{m:set(g.find_modules_directly_imported_by(m)) for m in mods})
for v in mods:
    if v not in idx: visit(v)
print("module circles:",out)
print(len(mods), "modules", sum(len(x) for x in succ.values()), "imports")
for p in sorted({pk(m) for m in mods}): print(p,'->',' '.join(sorted(b.split('.')[-1] for (a,b) in e if a==p)))
