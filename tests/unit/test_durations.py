"""Times as people write and read them."""

from __future__ import annotations

import pytest

from surgetank.durations import seconds_of, shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604_800), ("2 w", 1_209_600), (" 0s ", 0)],
)
def test_it_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "30", "-1d", "1y", "1e3s", "nans", "infs", "1 2s", "\u0663d", "9" * 13 + "s"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="span of time"):
        seconds_of(text)


def test_a_bare_number_is_seconds_where_that_is_meant() -> None:
    assert seconds_of("30", bare=True) == 30
    with pytest.raises(ValueError, match="span of time"):
        seconds_of("-30", bare=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h")],
)
def test_it_is_shown(seconds: float, text: str) -> None:
    assert shown(seconds) == text
