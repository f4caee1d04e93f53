"""Times as people write and read them."""

from __future__ import annotations

import math

import pytest

from surgetank.cli.output import seconds as shown_by_commands
from surgetank.cli.output import span
from surgetank.cli.prune import _seconds as age
from surgetank.durations import seconds_of, shown
from surgetank.exceptions import InvalidRequest
from surgetank.server.access.tokens import parse_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1.5h", 5400),
        (".5h", 1800),
        ("7d", 604_800),
        ("2 w", 1_209_600),
    ],
)
def test_it_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "30", "1y", "1 2s", "30 days", "xs", "7d\n"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no span of time"):
        seconds_of(text)


def test_a_bare_number_is_seconds_where_that_is_meant() -> None:
    assert seconds_of("30", bare=True) == 30
    assert seconds_of("30m", bare=True) == 1800
    with pytest.raises(ValueError, match="is no span of time"):
        seconds_of("thirty", bare=True)


@pytest.mark.parametrize("text", [f"{86_400 / 7}s", f"{1 / 86_400}d", "1e3s"])
def test_a_number_that_a_program_wrote_is_read_with_all_its_digits(text: str) -> None:
    assert span(text) == age("--retain-age", text) == seconds_of(text)


def test_an_age_may_be_a_bare_number_with_many_digits() -> None:
    assert age("--retain-age", str(86_400 / 7)) == 86_400 / 7
    assert age("--retain-age", "0") == 0


@pytest.mark.parametrize("text", ["-1d", "infs", "nans", "1e400s"])
def test_a_time_that_makes_no_sense_is_refused_by_who_asked_for_it(text: str) -> None:
    number = seconds_of(text)
    assert number < 0 or not math.isfinite(number)
    with pytest.raises(InvalidRequest):
        span(text)
    with pytest.raises(InvalidRequest):
        age("--retain-age", text)
    with pytest.raises(InvalidRequest):
        parse_span(text)


@pytest.mark.parametrize("text", ["1.5h", ".5h", "1e3s", "+5m", "3000000000s", "2  w", "30"])
def test_a_token_lasts_a_count_of_units(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_span(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h")],
)
def test_it_is_shown(seconds: float, text: str) -> None:
    assert shown(seconds) == text


def test_commands_show_tenths_of_seconds() -> None:
    assert [shown_by_commands(s) for s in (0.25, 119.94, 120, 9000)] == [
        "0.2 s", "119.9 s", "2 min", "2.5 h",
    ]  # fmt: skip
