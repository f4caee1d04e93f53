"""The editor for JSON, as any page of the console gets it: typed text is the form's, differences are marked,
and the rules of content hold."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import rewrite, visiting
from support.http import running
from surgetank.console.app import Console
from surgetank.console.assets import FOLDER, Assets

pytestmark = pytest.mark.browser
HERE = Path(__file__).parents[2] / "ops/editor"
PAGE = """([areas, script, bundle]) => {
  document.getElementById("main").innerHTML = areas;
  const made = document.createElement("script");
  Object.assign(made, { src: script });
  made.dataset.bundle = bundle;
  document.head.append(made);
}"""
AREAS = """<form><label for="a">Arguments</label>
<textarea id="a" name="a" data-editor="json">{"n": 1}</textarea></form>
<label for="b">What has changed</label><textarea id="b" data-editor="json" readonly
data-merge='{"kept": 1,\n"gone": "<b>x</b>"}'>{"kept": 1,\n"come": 2}</textarea>"""


def test_a_text_area_for_json_becomes_an_editor(chromium: Any, make_tank: Any) -> None:
    with (
        running(make_tank(), no_auth=True, mounts=[Console]) as server,
        visiting(chromium, server) as visitor,
    ):
        page, files = visitor.open("/inbox"), Assets("/console")
        loaded = [files.url("editor.js"), files.url("vendor/editor.min.js")]
        assert not any("editor" in url for url in visitor.bytes_sent)  # only who needs it loads it
        page.evaluate(PAGE, [AREAS, *loaded])
        editor = page.get_by_role("textbox", name="Arguments")
        expect(page.locator("textarea").first).to_be_hidden()
        rewrite(page, "Arguments", '{"n": 2,')
        assert page.locator("#a").input_value() == '{"n": 2,'  # what the form sends
        expect(page.locator(".cm-lint-marker-error")).to_be_visible()
        rewrite(page, "Arguments", '{"n": 2}')
        expect(page.locator(".cm-lint-marker-error")).to_have_count(0)
        page.evaluate(
            "a => { a.value = '[3]'; a.dispatchEvent(new Event('change')); }",
            page.locator("#a").element_handle(),
        )
        expect(editor).to_have_text("[3]")
        changes = page.get_by_role("textbox", name="What has changed")
        expect(changes.locator(".cm-deletedChunk")).to_have_text('"gone": "<b>x</b>"}')
        expect(changes.locator(".cm-changedLine, .cm-insertedLine").first).to_contain_text("come")
        changes.press("x")
        assert "come" in page.locator("#b").input_value()  # it can be read only


def test_the_editor_is_what_its_script_makes_of_pinned_packages(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("only npm has the packages of the editor")
    shutil.copytree(HERE, tmp_path / "e", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "vendor").mkdir()
    shutil.copy(FOLDER / "vendor/vendored.json", tmp_path / "vendor")
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    for command in (install, ["node", "build.mjs", str(tmp_path / "vendor")]):
        done = subprocess.run(
            command, cwd=tmp_path / "e", capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for path in (tmp_path / "vendor").iterdir():
        assert path.read_bytes() == (FOLDER / "vendor" / path.name).read_bytes(), path.name
    lock = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert not any("resolved" in each for each in lock.values())
    assert all("integrity" in each for name, each in lock.items() if name)
