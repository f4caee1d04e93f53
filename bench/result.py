"""One run's result: figures, machine and scale. Written as JSON and read back, so that a page can
be made later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars import Verdict, judge
from bench.harness import Figure
from bench.measures import MEASURES


@dataclass(frozen=True, slots=True)
class Result:
    """All that a run found out."""

    date: str
    took_s: float
    machine: dict[str, Any]
    server: dict[str, str]
    scale: dict[str, Any]
    figures: tuple[Figure, ...]
    parts: dict[str, str] = dataclasses.field(default_factory=dict)  # measures of other runs: when

    @classmethod
    def joined(cls, results: Sequence[Result]) -> Result:
        """Several runs as one, for a page: of each measure its newest figures. What is said of the
        machine is of the first."""
        first, *others = results
        figures, parts = first.figures, dict(first.parts)
        for each in others:
            measured = {figure.measure for figure in each.figures}
            figures = tuple(f for f in figures if f.measure not in measured) + each.figures
            parts |= dict.fromkeys(measured, f"{each.date}, load {each.machine['load_at_start']}")
        order = list(MEASURES)
        figures = tuple(sorted(figures, key=lambda figure: order.index(figure.measure)))
        return dataclasses.replace(first, figures=figures, parts=parts)

    @property
    def verdicts(self) -> list[Verdict]:
        """The bars that could be judged."""
        return judge(self.figures)

    def table(self, measure: str) -> Table:
        """The figures of one measure, a row for each thing and a column for each contestant."""
        mine = [f for f in self.figures if f.measure == measure]
        columns = list(dict.fromkeys(f.contestant for f in mine))
        rows = []
        for key, label, unit in dict.fromkeys((f.key, f.label, f.unit) for f in mine):
            cells = {f.contestant: f for f in mine if f.key == key}
            rows.append([f"{label}, {unit}", *(cell(cells.get(name)) for name in columns)])
        return Table(MEASURES[measure].TITLE, ["", *columns], rows)

    @property
    def bars(self) -> Table:
        """Each bar with its ratio and the verdict."""
        head = ["", "measured", "peer", "ratio (of the rounds)", "bar", ""]
        return Table("Bars", head, [_bar_row(verdict) for verdict in self.verdicts])

    def write(self, path: Path) -> None:
        """Write it as JSON, the verdicts with it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {
            **{
                f.name: getattr(self, f.name)
                for f in dataclasses.fields(self)
                if f.name != "figures"
            },
            "bars": [_told(v) for v in self.verdicts],
            "figures": [dataclasses.asdict(f) for f in self.figures],
        }
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        """The result that `write` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        told.pop("bars")
        figures = tuple(Figure(**{**f, "rounds": tuple(f["rounds"])}) for f in told.pop("figures"))
        return cls(**told, figures=figures)


@dataclass(frozen=True, slots=True)
class Table:
    """A table for a terminal or a page."""

    title: str
    head: list[str]
    rows: list[list[str]]


def number(value: float) -> str:
    """Three digits that count, and thousands apart.

    >>> number(0.01234), number(12345.6)
    ('0.0123', '12,346')
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 1 else f"{value:.3g}".rstrip(".")


def cell(figure: Figure | None) -> str:
    """The median, and the 99th percentile where there are enough samples for one."""
    if figure is None:
        return ""
    return number(figure.p50) + (f" / {number(figure.p99)}" if figure.p99 is not None else "")


def _bar_row(verdict: Verdict) -> list[str]:
    ours, theirs, value = verdict.ours, verdict.theirs, verdict.value
    shown = [number(value)] if theirs else []
    if len(ours.rounds) > 1:
        shown.append(f"({number(verdict.low)} to {number(verdict.high)})")
    return [
        f"{MEASURES[ours.measure].TITLE}: {ours.label}, {ours.unit}",
        number(ours.p50),
        number(theirs.p50) if theirs else "",
        " ".join(shown),
        verdict.bar.text,
        "met" if verdict.met else "missed",
    ]


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "measure": verdict.bar.measure, "key": verdict.bar.key, "who": verdict.bar.who, "peer": verdict.bar.peer,
        "bar": verdict.bar.text, "value": verdict.value, "low": verdict.low, "high": verdict.high, "met": verdict.met,
    }  # fmt: skip
