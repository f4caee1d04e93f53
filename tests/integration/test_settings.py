"""Settings: misspelt ones are refused with what was meant, files set them, everybody can see where
each comes from."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from surgetank import ConfigurationError, Surgetank
from surgetank.setting_sources import isolated
from surgetank.settings import load_settings, origins


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_misspelt_variable_is_refused_with_what_was_meant(monkeypatch):
    monkeypatch.setenv("SURGETANK_DATABSE_URL", "postgresql://x")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "SURGETANK_DATABSE_URL" in caught.value.what
    assert "SURGETANK_DATABASE_URL" in caught.value.remedy


def test_a_variable_that_is_like_no_setting_is_warned_of_and_kubernetes_own_are_not(
    monkeypatch, caplog
):
    monkeypatch.setenv("SURGETANK_COLOUR_OF_THE_LOGO", "blue")
    monkeypatch.setenv("SURGETANK_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SURGETANK_SERVICE_PORT", "8321")
    monkeypatch.setenv("SURGETANK_PORT", "tcp://10.0.0.1:8321")
    monkeypatch.setenv("SURGETANK_PORT_8321_TCP_ADDR", "10.0.0.1")
    with caplog.at_level(logging.WARNING):
        load_settings()
    assert [r.getMessage() for r in caplog.records] == [
        "SURGETANK_COLOUR_OF_THE_LOGO is set, and there is no such setting"
    ]


def test_a_misspelt_argument_is_refused_with_what_was_meant():
    with pytest.raises(ConfigurationError, match="did you mean 'flush_age'"):
        load_settings(flush_agee=1)


@pytest.mark.parametrize("url", ["postgresql://me@host/db", "postgres://h/d", "sqlite:///x.db"])
def test_an_address_as_home_is_refused_with_the_way_out(url, monkeypatch, folder):
    with pytest.raises(ConfigurationError) as caught:
        Surgetank(url)
    assert "database_url=" in caught.value.remedy
    monkeypatch.setenv("SURGETANK_HOME", url)
    with pytest.raises(ConfigurationError, match="home"):
        load_settings()
    assert list(folder.iterdir()) == []


def test_files_set_what_neither_argument_nor_environment_sets(folder, monkeypatch):
    (folder / "pyproject.toml").write_text(
        "[tool.surgetank]\nflush_age = 4.0\nflush_entries = 4\nretry_base = 4\nretain_age = '1d'\n"
    )
    (folder / "surgetank.toml").write_text("flush_age = 3.0\nflush_entries = 3\nretry_base = 3\n")
    monkeypatch.setenv("SURGETANK_FLUSH_AGE", "2.0")
    monkeypatch.setenv("SURGETANK_FLUSH_ENTRIES", "2")
    settings = load_settings(flush_age=1.0)
    assert (
        settings.flush_age,
        settings.flush_entries,
        settings.retry_base,
        settings.retain_age,
    ) == (
        1,
        2,
        3,
        86400,
    )
    found = origins(flush_age=1.0)
    assert [found[n] for n in ("flush_age", "flush_entries", "retry_base", "retain_age", "retry_max")] == [
        "argument", "SURGETANK_FLUSH_ENTRIES", "surgetank.toml", "[tool.surgetank] in pyproject.toml",
        "default",
    ]  # fmt: skip
    with isolated():
        assert load_settings().flush_age not in (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("surgetank.toml", "flush_agee = 1", "flush_age"),
        ("surgetank.toml", "flush_age = = 1", "surgetank.toml"),
        ("surgetank.toml", 'durability = "wish"', "durability"),
        ("pyproject.toml", "[tool.surgetank]\nnode_name = 1", "pyproject.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder, name, text, words):
    (folder / name).write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert words in str(caught.value)
    assert caught.value.remedy


def test_a_broken_pyproject_of_somebody_else_is_no_concern_of_ours(folder):
    (folder / "pyproject.toml").write_text("not toml at all [")
    assert load_settings().flush_age == 1.0


def surgetank(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "surgetank", *arguments], capture_output=True, text=True, check=False, timeout=170,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_config_shows_values_with_their_origin_and_no_secret(folder):
    (folder / "surgetank.toml").write_text("flush_age = 3.0\n")
    secrets = {
        "SURGETANK_DATABASE_URL": "postgresql://me:hunter2@host/db", "SURGETANK_ADMIN_TOKEN": "hunter2" * 5,
        "SURGETANK_ALERT_URLS": "json://hunter2",
    }  # fmt: skip
    done = surgetank("config", "--json", "--home", str(folder / "h"), **secrets)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["flush_age"] == {"value": 3.0, "origin": "surgetank.toml"}
    assert shown["home"] == {"value": str(folder / "h"), "origin": "argument"}
    assert shown["admin_token"] == {"value": "***", "origin": "SURGETANK_ADMIN_TOKEN"}
    assert shown["retry_max"]["origin"] == "default"
    assert "host" in shown["database_url"]["value"]
    plain = surgetank("config", "--changed", **secrets)
    assert "flush_age" in plain.stdout
    assert "retry_max" not in plain.stdout
    assert "hunter2" not in done.stdout + plain.stdout
    assert not (folder / "h").exists()


def test_config_shows_the_home_that_is_used_as_an_absolute_path(folder):
    relative = json.loads(surgetank("config", "--json", "--home", "here").stdout)
    assert relative["home"]["value"] == str(folder / "here")
    url = {
        "SURGETANK_DATABASE_URL": "postgresql://me@host/db",
        "SURGETANK_HOME": "",
        "HOME": str(folder),
    }
    default = json.loads(surgetank("config", "--json", **url).stdout)["home"]
    assert "databases" in default["value"]
    assert default["origin"] == "default"


def test_a_misspelt_variable_ends_a_command_with_2():
    done = surgetank("status", SURGETANK_FLUSH_AEG="1")
    assert done.returncode == 2
    assert "SURGETANK_FLUSH_AGE" in done.stderr


def test_the_demo_touches_no_configured_database_and_leaves_nothing(folder, database_url):
    import psycopg

    with psycopg.connect(database_url) as connection:
        before = connection.execute("SELECT count(*) FROM surgetank.threads").fetchone()
    # short, and open to the user that PostgreSQL runs as
    temporary = Path(tempfile.mkdtemp(prefix="stk-"))
    temporary.chmod(0o755)
    (folder / "surgetank.toml").write_text(
        f'database_url = "{database_url}"\nbuffer_max_entries = 1\n'
    )
    done = surgetank(
        "demo", "--threads", "1", "--json", SURGETANK_DATABASE_URL=database_url, SURGETANK_HOME=str(folder / "home"),
        SURGETANK_BUFFER_URL=f"sqlite:///{folder}/b.db", SURGETANK_FLUSH_IN_PROCESS="false", TMPDIR=str(temporary),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outage"]["checkpoints_in_database"] > 0
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM surgetank.threads").fetchone() == before
    assert sorted(p.name for p in folder.iterdir()) == ["surgetank.toml"]
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


def test_the_demo_refuses_a_folder_with_something_in_it(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "letter.txt").write_text("dear")
    assert surgetank("demo", "--home", str(folder / "mine")).returncode == 2
    assert [p.name for p in (folder / "mine").iterdir()] == ["letter.txt"]
