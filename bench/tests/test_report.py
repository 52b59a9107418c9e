"""The report: ratios round by round, invalid runs left out and named, the gate, the page written from the JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench import __main__ as command
from bench import report
from bench.cases import CELLS
from bench.model import OURS, SIZES, Contestant, Ratio, Result, Run, Size, Spread

SEEN = dict.fromkeys(("cpu", "cores", "memory", "kernel", "python", "ours", "peers"), "x")
RATE = Ratio("rows/s ÷ peer's", "rows", OURS, "peer", more=True, must=2.0)
COST = Ratio("CPU ÷ peer's", "cpu", OURS, "peer", more=False, must=0.5)


class Fixed:
    """A contestant whose figures are given."""

    def __init__(self, name: str, *runs: Run) -> None:
        self.name, self._runs = name, list(runs)

    def run(self) -> Run:
        """Return the next."""
        return self._runs.pop(0)


@dataclass(frozen=True, slots=True)
class Rowing:
    """A cell of given contestants."""

    who: Sequence[Contestant] = ()
    name: str = "rowing"
    question: str = "How fast?"
    warm: bool = True

    @property
    def units(self) -> Mapping[str, str]:
        """Return figures."""
        return {"rows": "rows/s", "cpu": "µs"}

    @property
    def ratios(self) -> Sequence[Ratio]:
        """Return what is held."""
        return [RATE, COST]

    @contextmanager
    def contestants(self, size: Size, absent: dict[str, str]) -> Iterator[Sequence[Contestant]]:
        """Have them."""
        del size, absent
        yield self.who


def result(*rates: tuple[float, float], cpu: float = 1.0) -> Result:
    ours = [Run(OURS, {"rows": rate, "cpu": cpu}) for rate, _ in rates]
    peers = [Run("peer", {"rows": rate, "cpu": 2.0}) for _, rate in rates]
    return Result("rowing", [{OURS: a, "peer": b} for a, b in zip(ours, peers, strict=True)])


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that was slow for one round was slow for both."""
    found = result((100, 50), (40, 20), (90, 30)).ratio(RATE)
    assert found == Spread(2.0, 2.0, 2.5, 3)


def test_an_invalid_run_gives_no_ratio_and_is_named() -> None:
    """A number whose oracle failed is none."""
    one = result((100, 50), (100, 10))
    one.rounds[1]["peer"].wrong.append("3 rows doubled")
    assert one.ratio(RATE) == Spread(2.0, 2.0, 2.0, 1)
    assert one.invalid() == ["rowing, peer: 3 rows doubled"]
    told = report.document("ci", SEEN, "", {"rowing": one})
    assert "- rowing, peer: 3 rows doubled" in report.table([Rowing()], told)


def test_what_is_worse_by_more_than_a_tenth_is_told() -> None:
    """Less where more is better, more where less is; within a tenth, or with quartiles that meet, it is noise."""
    before = report.ratios([Rowing()], {"rowing": result((100, 50), (102, 50), (98, 50))})
    assert report.worse(Rowing(), result((85, 50), (86, 50), (84, 50)), before)
    assert not report.worse(Rowing(), result((95, 50), (96, 50), (94, 50)), before)
    assert not report.worse(Rowing(), result((85, 50), (120, 50), (60, 50)), before)
    assert report.worse(Rowing(), result((100, 50), (102, 50), (98, 50), cpu=1.2), before)
    assert not report.worse(Rowing(), result((200, 50), (202, 50), (198, 50), cpu=0.5), before)


def test_a_goal_is_held_against_the_figure_itself() -> None:
    """It is shown as met or missed, is nobody's to do better, and is in no baseline: it depends on the machine."""
    goal, found = Ratio("rows/s", "rows", OURS, "", more=True, must=90), result((100, 50), (80, 50))
    assert found.ratio(goal) == Spread(90.0, 85.0, 95.0, 2)

    class Aiming(Rowing):
        ratios = (goal,)

    told = report.document("ci", SEEN, "", {"rowing": found})
    assert "| rowing | rows/s | 90 (85 to 95) | 2 | 90 |  | met |" in report.table([Aiming()], told)
    assert (list(report.behind(Aiming(), found)), report.ratios([Aiming()], {"rowing": found})) == ([], {})


def test_cells_of_several_commits_stand_beside_each_other_and_say_of_which() -> None:
    """What was measured before on this machine stays; on another it goes."""
    first, second = result((100, 50)), result((90, 50))
    first.measured, second.measured = "at noon, commit a", "at night, commit b"
    old = report.document("ci", SEEN, "", {"rowing": first, "sailing": first})
    new = report.document("ci", SEEN, "", {"rowing": second})
    assert {n: c["measured"][-1] for n, c in report.merged(old, new)["cells"].items()} == {
        "rowing": "b",
        "sailing": "a",
    }
    assert "rounds,\nat night, commit b:\n" in report.table([Rowing()], new)
    assert report.merged({**old, "fingerprint": {**SEEN, "cpu": "another"}}, new) == new


def test_the_page_is_written_from_the_json(tmp_path: Path) -> None:
    """What was between the marks goes, what is around them stays, and every run is in the JSON."""
    told = report.document("ci", SEEN, "", {"rowing": result((100, 50), (100, 200))})
    report.save(tmp_path / "ci.json", told)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")

    found = report.load(tmp_path / "ci.json")
    assert found is not None
    report.write_readme(report.table([Rowing()], found), page)

    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| rowing | rows/s ÷ peer's | 1.25 (0.875 to 1.62) | 2 | 2 |  | **missed** |" in text
    assert [r[OURS]["figures"]["rows"] for r in found["cells"]["rowing"]["rounds"]] == [100, 100]


def test_what_a_peer_does_better_is_named() -> None:
    """In the words of the ratio, whatever it must be."""
    found = result((40, 50), (40, 50), cpu=3.0)
    assert list(report.behind(Rowing(), found)) == ["rowing: rows/s ÷ peer's is 0.8", "rowing: CPU ÷ peer's is 1.5"]


def test_contestants_take_turns_and_keep_every_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A, B, A, B."""
    runs = [Run(OURS, {"rows": n}) for n in (1, 2)], [Run("peer", {"rows": n}) for n in (3, 4)]
    who = [Fixed(OURS, *runs[0]), Fixed("peer", *runs[1])]
    found = command.measured(Rowing(who), Size("x", 2, 1.0, 0.0))
    assert [[run.figures["rows"] for run in round_.values()] for round_ in found.rounds] == [[1, 3], [2, 4]]
    told = capsys.readouterr().err
    assert told.index("1/2 ours") < told.index("1/2 peer") < told.index("2/2 ours") < told.index("2/2 peer")


def rounds(*rates: float) -> Sequence[Contestant]:
    """Have contestants whose ratio of rates is such in each round."""
    ours = [Run(OURS, {"rows": rate, "cpu": 1.0}) for rate in rates]
    return [Fixed(OURS, *ours), Fixed("peer", *(Run("peer", {"rows": 1.0, "cpu": 2.0}) for _ in rates))]


@pytest.mark.parametrize(("second", "code"), [((1.5, 1.5, 1.5), 1), ((2.0, 2.0, 2.0), 0)])
def test_a_ratio_fails_when_it_is_worse_than_its_baseline_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], second: list[float], code: int
) -> None:
    """Once may be the machine: it is measured again, and only if it is worse again the page opens with it."""
    cell = Rowing(rounds(1.5, 1.5, 1.5, *second))
    monkeypatch.setattr(command, "CELLS", [cell])
    monkeypatch.setattr(command, "busy", lambda: "")
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "BASELINE", tmp_path / "baseline")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(f"{report.BEGIN}\n{report.END}", encoding="utf-8")
    report.save(tmp_path / "baseline" / "ci.json", report.ratios([cell], {"rowing": result(*[(2.0, 1.0)] * 3)}))

    monkeypatch.setattr("sys.argv", ["bench", "--case", "rowing"])
    monkeypatch.setattr(command, "SIZES", {"ci": Size("ci", 3, 1.0, 0.0)})
    assert command.main() == code

    told = capsys.readouterr()
    assert "worse than the baseline, so it is measured once more" in told.err
    assert ("**Worse than the baseline, twice**" in told.out) == bool(code)
    assert told.out.strip() in (tmp_path / "README.md").read_text(encoding="utf-8")


class Broken:
    """A contestant that breaks down."""

    name = "peer"

    def run(self) -> Run:
        """Do so."""
        message = "its stream not within 180 s"
        raise TimeoutError(message)


def test_a_contestant_that_breaks_down_is_named_and_the_others_go_on() -> None:
    """It gives no figure, and its reason is among what is invalid."""
    found = command.measured(Rowing([Broken(), Fixed(OURS, Run(OURS, {"rows": 1.0}))]), Size("x", 1, 1.0, 0.0))
    assert found.invalid() == ["rowing, peer: broke down: TimeoutError: its stream not within 180 s"]
    assert found.spread(OURS, "rows") == Spread(1.0, 1.0, 1.0, 1)
    assert found.ratio(RATE) is None


def test_a_busy_machine_is_refused_and_a_forced_run_marked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says why and the way out; forced, the result bears it and touches neither page nor baseline."""
    cell = Rowing([Fixed(OURS, Run(OURS, {"rows": 1.0})), Fixed("peer", Run("peer", {"rows": 2.0}))])
    monkeypatch.setattr(command, "CELLS", [cell])
    monkeypatch.setattr(command, "busy", lambda: "the load is 3.00 a core")
    monkeypatch.setattr(command, "LOOSE", tmp_path / "loose")
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    before = report.README.read_text(encoding="utf-8")

    monkeypatch.setattr("sys.argv", ["bench", "--profile", "smoke"])
    assert command.main() == command.CONFLICT
    assert "fix: wait until it is quiet, or make bench FORCE=1" in capsys.readouterr().err

    monkeypatch.setattr("sys.argv", ["bench", "--profile", "smoke", "--force", "--baseline"])
    assert command.main() == 0
    assert json.loads((tmp_path / "loose" / "smoke.json").read_text())["forced"] == "the load is 3.00 a core"
    assert "**Forced on a busy machine, so no figure of it counts**" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert report.README.read_text(encoding="utf-8") == before


def test_cells_are_chosen_by_name_or_by_its_first_words() -> None:
    """`relay_drain_1` is one cell, `relay_drain` two."""
    names, ci, full = [cell.name for cell in CELLS], SIZES["ci"], SIZES["full"]
    assert [n for n in names if command.chosen(n, "relay_drain", ci)] == ["relay_drain_1", "relay_drain_10"]
    assert [n for n in names if command.chosen(n, "relay_drain_1,step", ci)] == ["relay_drain_1", "step"]
    assert [n for n in names if command.chosen(n, "", ci)] == ["relay_drain_1", "step"]
    assert all(command.chosen(n, "", full) for n in names)
