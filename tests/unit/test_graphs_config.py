"""A project's `langgraph.json`: what is read, what is noted, what is refused and with which words."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgetank.exceptions import ConfigurationError
from surgetank.workflows.graphs import envfile
from surgetank.workflows.graphs.config import MAX_CONFIG_BYTES, assistant_id, load
from surgetank.workflows.lifetime import Lifetimes, ThreadTtl

MINIMAL: dict[str, Any] = {"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}}


def written(folder: Path, **keys: Any) -> Path:
    """A `langgraph.json` with these keys beside the least that one has."""
    path = folder / "langgraph.json"
    path.write_text(json.dumps({**MINIMAL, **keys}))
    return path


def refusal(folder: Path, **keys: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(written(folder, **keys))
    assert caught.value.remedy
    return caught.value.what


def graph_refusal(folder: Path, name: str, spec: Any) -> str:
    config = load(written(folder, graphs={name: spec, "fine": "agent.py:graph"}))
    assert tuple(config.graphs) == ("fine",)
    assert set(config.names) == {"fine", name}
    assert config.refused[name].remedy
    return config.refused[name].why


class TestWhatIsRead:
    def test_graphs_are_files_modules_or_objects_with_a_description(self, tmp_path):
        config = load(
            written(
                tmp_path,
                graphs={
                    "a": "./src/a.py:graph",
                    "b": "package.module:make",
                    "c": {"path": "c.py:graph", "description": "the third"},
                },
            )
        )
        a, b, c = config.graphs.values()
        assert (a.source.file, a.source.attribute) == (tmp_path / "src" / "a.py", "graph")
        assert (b.source.file, b.source.module, b.source.attribute) == (
            None,
            "package.module",
            "make",
        )
        assert c.description == "the third"

    def test_local_dependencies_are_import_paths_and_nothing_is_installed(self, tmp_path):
        (tmp_path / "lib" / "src").mkdir(parents=True)
        (tmp_path / "lib" / "pyproject.toml").touch()
        config = load(
            written(tmp_path, dependencies=[".", "./lib", "no_such_package>=1", "pytest"])
        )
        assert config.import_paths == (tmp_path, tmp_path / "lib", tmp_path / "lib" / "src")
        assert [note for note in config.notes if "no_such_package" in note]
        assert not [note for note in config.notes if "pytest" in note]

    def test_what_only_builders_need_is_noted(self, tmp_path):
        config = load(
            written(
                tmp_path, dockerfile_lines=["RUN true"], pip_config_file="pip.conf", image_distro="wolfi",
                node_version="20", python_version="3.10",
            )
        )  # fmt: skip
        for key in (
            "dockerfile_lines",
            "pip_config_file",
            "image_distro",
            "node_version",
            "python_version",
        ):
            assert [note for note in config.notes if note.startswith(f"{key}:")], key

    def test_the_default_assistant_s_id_comes_from_the_graph_s_name(self):
        namespace = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
        assert assistant_id("agent") == uuid.uuid5(namespace, "agent")

    def test_how_long_threads_live_is_read_in_minutes(self, tmp_path):
        said = {"strategy": "keep_latest", "default_ttl": 1.5, "sweep_interval_minutes": 2}
        found = load(written(tmp_path, checkpointer={"ttl": said})).lifetimes
        assert found == Lifetimes(default=ThreadTtl(1.5, "keep_latest"), every_s=120.0, most=1000)
        assert load(written(tmp_path)).lifetimes == Lifetimes()
        nothing = load(written(tmp_path, checkpointer={"ttl": {"sweep_limit": 5}})).lifetimes
        assert (nothing.default, nothing.every_s, nothing.most) == (None, 300.0, 5)

    def test_a_config_can_not_be_changed(self, tmp_path):
        config = load(written(tmp_path))
        with pytest.raises(AttributeError):
            config.path = tmp_path  # type: ignore[misc]
        with pytest.raises(TypeError):
            config.graphs["other"] = config.graphs["agent"]  # type: ignore[index]


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("keys", "named"),
        [
            ({"encryption": {"path": "a.py:e"}}, "'encryption'"),
            ({"grahps": {}}, "'grahps'"),
            ({"checkpointer": {"path": "a.py:c"}}, "'checkpointer.path'"),
            ({"http": {"disable_store": True}}, "'http.disable_store'"),
            ({"http": {"app": "./web.ts:app"}}, "'http.app': './web.ts:app' is JavaScript"),
            ({"http": {"app": ["./web.py:app"]}}, "'http.app' is no text"),
            ({"http": {"app": "../web.py:app"}}, "outside of the project"),
            ({"http": {"enable_custom_route_auth": 0}}, "'http.enable_custom_route_auth'"),
            ({"http": {"enable_custom_route_auth": "no"}}, "'http.enable_custom_route_auth'"),
            ({"http": {"middleware_order": "auth_first"}}, "'http.middleware_order'"),
            ({"http": {"mount_prefix": "/api"}}, "'http.mount_prefix'"),
            ({"http": {"disable_webhooks": True}}, "'http.disable_webhooks'"),
            ({"http": {"configurable_headers": {}}}, "'http.configurable_headers'"),
            ({"auth": {"path": "./auth.js:auth"}}, "'auth.path': './auth.js:auth' is JavaScript"),
            ({"auth": {"path": ["./auth.py:auth"]}}, "'auth.path' is no text"),
            ({"checkpointer": {"ttl": 60}}, "'checkpointer.ttl': it is no object"),
            ({"checkpointer": {"ttl": {"default": 60}}}, "'default' is not known"),
            ({"checkpointer": {"ttl": {"strategy": "archive"}}}, "'strategy' is none of delete"),
            ({"checkpointer": {"ttl": {"default_ttl": 0}}}, "'default_ttl'"),
            ({"checkpointer": {"ttl": {"default_ttl": True}}}, "'default_ttl'"),
            ({"checkpointer": {"ttl": {"default_ttl": "60"}}}, "'default_ttl'"),
            ({"checkpointer": {"ttl": {"default_ttl": 1e12}}}, "'default_ttl'"),
            ({"checkpointer": {"ttl": {"sweep_interval_minutes": -1}}}, "'sweep_interval_minutes'"),
            ({"checkpointer": {"ttl": {"sweep_limit": 1.5}}}, "'sweep_limit'"),
            ({"auth": []}, "'auth' is no object"),
            ({"dependencies": "."}, "'dependencies'"),
            ({"dependencies": ["./missing"]}, "'./missing'"),
            ({"graphs": {}}, "no graphs"),
            ({"graphs": ["agent"]}, "no graphs"),
            ({"env": 7}, "'env'"),
            ({"env": ".env"}, ".env does not exist"),
            ({"env": {"A=B": "c"}}, "'A=B'"),
            ({"env": {"A": "nul\0"}}, "'A'"),
        ],
    )
    def test_it_is_named(self, tmp_path, keys, named):
        assert named in refusal(tmp_path, **keys)

    @pytest.mark.parametrize(
        ("spec", "why"),
        [
            ("./agent.ts:graph", "JavaScript"),
            ("./agent.mjs", "JavaScript"),
            ("./agent.py", "no file or module"),
            ("./agent.py:", "no file or module"),
            ("./agent.py:a b", "no file or module"),
            ("./a\0b.py:graph", "no file or module"),
            ("no module:graph", "no name of a module"),
            ("../agent.py:graph", "outside of the project"),
            ("src/../../agent.py:graph", "outside of the project"),
            ("/etc/agent.py:graph", "outside of the project"),
            ({"description": "no path"}, "no path"),
            (None, "no path"),
        ],
    )
    def test_a_graph_is_refused_alone_and_the_others_stay(self, tmp_path, spec, why):
        assert why in graph_refusal(tmp_path, "other", spec)

    @pytest.mark.parametrize("name", ["a/b", "../a", "..", "", " ", "a?b", "a\nb", "x" * 201])
    def test_a_name_that_no_address_can_have_is_refused(self, tmp_path, name):
        assert "its name" in graph_refusal(tmp_path, name, "./agent.py:graph")

    def test_a_name_that_is_an_id_is_refused(self, tmp_path):
        assert "is an id" in graph_refusal(tmp_path, str(assistant_id("a")), "./agent.py:graph")

    def test_a_folder_outside_is_allowed_where_dependencies_name_it(self, tmp_path):
        (tmp_path / "project").mkdir()
        (tmp_path / "common").mkdir()
        path = written(
            tmp_path / "project",
            dependencies=[".", "../common"],
            graphs={"a": "../common/a.py:graph"},
        )
        assert load(path).graphs["a"].source.file == tmp_path / "common" / "a.py"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "in line 1"),
            ("[]", "no object"),
            ('{"graphs": {"a": "x.py:a", "a": "y.py:a"}}', "'a' stands in it twice"),
            ("[" * 100_000, "nested too deeply"),
            ("\ufeff[]", "no object"),
        ],
    )
    def test_what_is_no_json_is_refused_with_the_line(self, tmp_path, text, why):
        (tmp_path / "langgraph.json").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError, match=why):
            load(tmp_path / "langgraph.json")

    def test_files_that_are_none_are_refused(self, tmp_path):
        huge = tmp_path / "huge.json"
        huge.write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
        latin = tmp_path / "latin.json"
        latin.write_bytes(b'{"graphs": "\xe9"}')
        os.mkfifo(tmp_path / "pipe.json")
        for name, why in (
            ("huge.json", "bytes"), ("latin.json", "no UTF-8"), ("pipe.json", "is no file"),
            ("none.json", "does not exist"), (".", "is no file"), ("a\0b", "can't be read"),
        ):  # fmt: skip
            with pytest.raises(ConfigurationError, match=why):
                load(tmp_path / name)


class TestEnvironment:
    def test_a_file_is_read_as_shells_and_dotenv_do(self):
        text = "\n".join(
            (
                "# a comment",
                "PLAIN=value # said",
                "export EXPORTED = 'single $x ${PLAIN} # kept'",
                'DOUBLE="a \\"b\\" \\n${PLAIN}"  # said',
                "URL=http://host/#fragment",
                "EMPTY=",
                'LINES="one',
                'two"',
                "REFERS=${PLAIN}-${MISSING:-default}-${HOST}",
                "LAST='x'",
            )
        )
        values, unread = envfile.parse(text, {"HOST": "here"})
        assert unread == []
        assert values == {
            "PLAIN": "value", "EXPORTED": "single $x ${PLAIN} # kept", "DOUBLE": 'a "b" \nvalue',
            "URL": "http://host/#fragment", "EMPTY": "", "LINES": "one\ntwo",
            "REFERS": "value-default-here", "LAST": "x",
        }  # fmt: skip

    def test_a_line_that_says_nothing_is_named_by_its_number(self):
        values, unread = envfile.parse("A=1\nno value\r\n\n'x'=2\nB=\"never closed\nC=3", {})
        assert (values, unread) == ({"A": "1", "C": "3"}, [2, 4, 5])

    @given(st.text(st.characters(exclude_characters="'\r", exclude_categories=["Cs"])))
    def test_what_is_quoted_comes_back(self, value):
        assert envfile.parse(f"A='{value}'\nB=2", {}) == ({"A": value, "B": "2"}, [])

    @given(st.text(alphabet="A='\"\\ \n#${}:-x"))
    def test_any_text_is_read_to_its_end(self, text):
        values, _ = envfile.parse(f"{text}\nLAST=1\n", {})
        assert values.get("LAST") == "1" or "'" in text or '"' in text

    def test_values_are_in_no_text(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "of-the-process")
        (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-secret\nbroken sk-secret\n")
        config = load(written(tmp_path, env=".env"))
        assert config.env["OPENAI_API_KEY"] == "sk-secret"
        assert "OPENAI_API_KEY" in " ".join(config.notes)
        assert "line 2" in " ".join(config.notes)
        assert "sk-secret" not in f"{config} {config.notes}"

    def test_a_mapping_is_read_as_texts(self, tmp_path):
        config = load(written(tmp_path, env={"A": "x", "B": 7, "C": True}))
        assert dict(config.env) == {"A": "x", "B": "7", "C": "true"}
