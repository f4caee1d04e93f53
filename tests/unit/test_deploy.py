"""What `deploy/` names is there: commands, options, settings, extras, metrics, addresses; and its pods are closed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from surgetank.cli.app import app
from surgetank.observability.metrics import METRICS
from surgetank.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
MANIFESTS: list[dict[str, Any]] = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
COMMANDS: Any = typer.main.get_command(app)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each workload its name and the spec of its pods."""
    for document in MANIFESTS:
        spec = document.get("spec", {}).get("template", {}).get("spec")
        if spec is not None:
            yield document["metadata"]["name"], spec


def calls() -> list[list[str]]:
    """All commands of ours that are run."""
    ours = [
        each["command"] for each in COMPOSE["services"].values() if each["image"] == "surgetank"
    ]
    ours += [container["args"] for _, pod in pods() for container in pod["containers"]]
    ours += [
        re.findall(r'"(\w+)"', line)
        for line in re.findall(r"^CMD (.*)", CONTAINERFILE, re.MULTILINE)
    ]
    return ours


def kinds(kind: str) -> list[dict[str, Any]]:
    return [document for document in MANIFESTS if document["kind"] == kind]


def test_every_command_and_option_that_is_run_exists() -> None:
    assert len(calls()) == 7
    for command, *arguments in calls():
        known = {option for each in COMMANDS.commands[command].params for option in each.opts}
        used = {argument for argument in arguments if argument.startswith("--")}
        assert used <= known, command


def test_every_setting_that_is_named_exists() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DEPLOY.rglob("*") if path.is_file())
    named = set(re.findall(r"\bSURGETANK_[A-Z_]+", text))
    assert len(named) > 8
    assert {name for name in named if name[10:].lower() not in Settings.model_fields} == set()
    config = kinds("ConfigMap")[0]["data"]
    given = {
        name[10:].lower(): value for name, value in config.items() if name[:10] == "SURGETANK_"
    }
    assert load_settings(**given).tables_url is not None, "and their values can be used"


def test_the_image_is_of_the_wheel_with_extras_that_exist_and_runs_as_nobody() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"\.whl\)\[([\w,]+)\]", CONTAINERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for name in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE):
        assert all((ROOT / each).exists() for each in name.split())
    assert re.search(r"^USER 10001:10001$", CONTAINERFILE, re.MULTILINE)
    assert CONTAINERFILE.count("FROM python:3.12-slim") == 2
    assert "HEALTHCHECK" in CONTAINERFILE
    assert project["readme"] == "docs/package.md", "the wheel is built with what is copied"


def test_every_pod_is_closed_and_bounded() -> None:
    assert {name for name, _ in pods()} == {
        "surgetank-migrate", "surgetank-server", "surgetank-worker",
    }  # fmt: skip
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"]["memory"]
            assert {each["mountPath"] for each in container["volumeMounts"]} == {
                "/var/lib/surgetank", "/tmp",
            }  # fmt: skip
    for service in COMPOSE["services"].values():
        if service["image"] == "surgetank":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]


def test_probes_ask_routes_that_are_documented_and_public() -> None:
    routes = (ROOT / "docs/reference/http.md").read_text(encoding="utf-8")
    (server,) = kinds("StatefulSet")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f"| `GET {container[probe]['httpGet']['path']}` | public" in routes
    assert container["ports"] == [
        {"name": "http", "containerPort": Settings.model_fields["server_port"].default}
    ]


def test_workers_are_scaled_by_a_metric_that_exists_and_selectors_find_their_pods() -> None:
    (scaled,) = kinds("ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    (metric,) = re.findall(r"surgetank_\w+", trigger["metadata"]["query"])
    assert metric in METRICS
    labels = {
        name: document["spec"]["template"]["metadata"]["labels"]
        for document in MANIFESTS
        if (name := document["metadata"]["name"] if "metadata" in document else "")
        and "template" in document.get("spec", {})
    }
    for budget in kinds("PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert labels[budget["metadata"]["name"]] == wanted
    (service,) = kinds("Service")
    assert service["spec"]["selector"] == labels["surgetank-server"]


def test_every_file_is_listed_and_nothing_is_of_this_machine() -> None:
    (listed,) = [document for document in MANIFESTS if document["kind"] == "Kustomization"]
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(listed["resources"]) == files - {"kustomization.yaml"}


@pytest.mark.parametrize("program", ["kubectl", "kubeconform"])
def test_the_manifests_are_what_kubernetes_takes(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    folder = DEPLOY / "kubernetes"
    commands = {
        "kubectl": ["kubectl", "kustomize", str(folder)],
        "kubeconform": ["kubeconform", "-strict", "-ignore-missing-schemas", str(folder)],
    }
    done = subprocess.run(
        commands[program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
