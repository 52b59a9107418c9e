set -e
cd $T; git reset -q --hard ${1:-main}; git clean -fdq chassis cli sandbox tests services bench
$PYTHON $HERE/restructure.py $T $HERE/plan.py
$PYTHON $HERE/post.py $T
sed -i 's/known-first-party = .*/known-first-party = ["tests", "quadrille", "order", "inventory", "payment", "notification", "quadrille_cli", "quadrille_sandbox"]/' pyproject.toml
git add -A
R=.venv/bin/ruff
$R check -q --fix --select F401,I,F811,RUF022 . || true; $R check -q --fix --fixable RUF100,I . >/dev/null || true; $R format -q .
$R check --output-format concise . | tail -40 || true
$PYTHON $HERE/attr.py $T $HERE/attrs.txt 2>&1 | grep -v "NOT DEF" | tail -20
$R check -q --fix --fixable RUF100,I . >/dev/null || true; $R format -q .
git add -A
