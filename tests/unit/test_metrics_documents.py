"""Every metric is documented, and dashboard and alert rules name only metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgetank.observability.metrics import METRICS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/metrics.md"
RULES = ROOT / "ops/prometheus/surgetank-alerts.yaml"
DASHBOARD = ROOT / "ops/grafana/surgetank.json"


def names_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression; a histogram's series by the histogram's name."""
    found = set(re.findall(r"\bsurgetank_\w+", expression))
    return {
        name.rsplit("_", 1)[0] if re.search(r"_(bucket|sum|count)$", name) else name
        for name in found
    }


def labels_in(expression: str) -> set[tuple[str, str]]:
    """Metric and label, where an expression selects by label."""
    return {
        (names_in(name).pop(), label)
        for name, selector in re.findall(r"\b(surgetank_\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*[=!]", selector)
    }


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


EXPRESSIONS = [
    *(rule["expr"] for rule in rules()),
    *(target["expr"] for panel in panels() for target in panel["targets"]),
]


def test_every_metric_is_documented_with_its_labels_and_no_other():
    rows = dict(re.findall(r"^\| `(surgetank_\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert set(rows) == set(METRICS)
    for name, spec in METRICS.items():
        kind, labels, meaning = rows[name].split(" | ", 2)
        assert kind == spec.kind
        assert tuple(re.findall(r"`(\w+)`", labels)) == spec.labels
        assert meaning.startswith(spec.help.rstrip("."))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_dashboard_and_rules_use_only_metrics_and_labels_that_exist(expression: str):
    assert names_in(expression) <= set(METRICS)
    assert names_in(expression)
    for name, label in labels_in(expression):
        assert label in {*METRICS[name].labels, "instance", "job"}, (name, label)
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
    assert grouped <= {"instance", "le"}.union(
        *(METRICS[name].labels for name in names_in(expression))
    )
    for counter in (name for name in names_in(expression) if METRICS[name].kind == "counter"):
        assert re.search(rf"(rate|increase)\(\s*{counter}", expression), counter


def test_rules_say_what_to_do_and_panels_do_not_overlap():
    for rule in rules():
        assert rule["alert"].startswith("Surgetank")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"])
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
