"""A plot of a result as a small SVG, without a plotting library: times as multiples of
InMemorySaver, and growth.

Both scales are logarithmic, because the savers are orders of magnitude apart.
"""

from __future__ import annotations

import math
import re
from html import escape

from bench.harness import Figure
from bench.peers import MEMORY, OURS, POOL, POSTGRES, SQLITE
from bench.result import Result, number

_COLOURS = {
    MEMORY: "#7f8c8d",
    SQLITE: "#e1a730",
    POSTGRES: "#336791",
    POOL: "#7ea6cc",
    OURS: "#c0392b",
}
_TIMES = (
    ("calls", "put"), ("calls", "put_writes"), ("calls", "get_tuple hot"), ("calls", "get_tuple cold"),
    ("graph", "sync"), ("graph", "async"), ("graph", "exit"),
)  # fmt: skip
_WIDTH, _LEFT, _RIGHT, _BAR, _GROUP_GAP = 860, 230, 70, 11, 10
_GROWTH_HEIGHT = 300


def svg(result: Result) -> str:
    """The plot's source."""
    found = {(f.measure, f.key, f.contestant): f for f in result.figures}
    y, parts = (
        24.0,
        [
            _text(
                10,
                18,
                "Time, as a multiple of InMemorySaver (logarithmic, less is better)",
                bold=True,
            )
        ],
    )
    bars, y = _bars(found, y + 10)
    parts += bars
    growth = [
        f for f in result.figures if f.measure == "storage" and re.fullmatch(r"plain \d+", f.key)
    ]
    if growth:
        parts.append(
            _text(
                10,
                y + 24,
                "Stored MB of one conversation, by steps (logarithmic, less is better)",
                bold=True,
            )
        )
        parts += _growth(growth, y + 40)
        y += 40 + _GROWTH_HEIGHT
    legend = "".join(
        f'<rect x="{10 + 165 * i}" y="{y + 14}" width="11" height="11" fill="{colour}"/>'
        + _text(26 + 165 * i, y + 24, name)
        for i, (name, colour) in enumerate(_COLOURS.items())
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 40:.0f}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *parts, legend, "</svg>"]) + "\n"


def _bars(found: dict[tuple[str, str, str], Figure], y: float) -> tuple[list[str], float]:
    groups = [(found[(*key, MEMORY)], key) for key in _TIMES if (*key, MEMORY) in found]
    ratios = {
        (key, name): found[(*key, name)].p50 / base.p50
        for base, key in groups
        for name in _COLOURS
        if (*key, name) in found
    }
    if not ratios:
        return [], y
    low, high = (
        math.log10(min(*ratios.values(), 1) * 0.8),
        math.log10(max(*ratios.values(), 1) * 1.1),
    )

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts, top = [], y
    for base, key in groups:
        mine = [name for name in _COLOURS if (key, name) in ratios and name != MEMORY]
        parts.append(_text(10, y + len(mine) * _BAR / 2 + 4, base.label))
        for name in mine:
            ratio = ratios[key, name]
            start, end = sorted((x(1), x(ratio)))
            parts.append(
                f'<rect x="{start:.1f}" y="{y:.1f}" width="{max(end - start, 1):.1f}" '
                f'height="{_BAR - 2}" '
                f'fill="{_COLOURS[name]}"/>'
            )
            parts.append(_text(end + 4, y + _BAR - 2, f"{number(ratio)} x", size=9))
            y += _BAR
        y += _GROUP_GAP
    line = f'<line x1="{x(1):.1f}" y1="{top:.1f}" x2="{x(1):.1f}" y2="{y:.1f}" stroke="#333"/>'
    return [*parts, line], y


def _growth(figures: list[Figure], top: float) -> list[str]:
    points: dict[str, list[tuple[int, float]]] = {}
    for figure in figures:
        points.setdefault(figure.contestant, []).append((int(figure.key.split()[1]), figure.p50))
    steps = sorted({step for line in points.values() for step, _ in line})
    values = [value for line in points.values() for _, value in line]
    low, high = math.log10(min(values) * 0.7), math.log10(max(values) * 1.3)
    span = math.log(steps[-1] / steps[0]) or 1

    def at(step: int, value: float) -> tuple[float, float]:
        x = 60 + math.log(step / steps[0]) / span * (_WIDTH - 60 - 110)
        return x, top + (high - math.log10(value)) / (high - low) * (_GROWTH_HEIGHT - 30)

    parts = [_text(at(step, 1)[0] - 8, top + _GROWTH_HEIGHT - 10, str(step)) for step in steps]
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        y = at(steps[0], 10.0**exponent)[1]
        parts.append(f'<line x1="55" y1="{y:.1f}" x2="{_WIDTH - 100}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(10, y + 4, f"{10.0**exponent:g}"))
    label_y = top - 100.0
    for name, line in sorted(points.items(), key=lambda item: -item[1][-1][1]):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{_COLOURS[name]}" stroke-width="2.5"/>'
        )
        x, y = at(*line[-1])
        label_y = max(y + 4, label_y + 13)  # lines may end in one place, their labels may not
        parts.append(_text(x + 6, label_y, f"{number(line[-1][1])} MB"))
    return parts


def _text(x: float, y: float, words: str, *, bold: bool = False, size: int = 12) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{weight}>{escape(words)}</text>'
