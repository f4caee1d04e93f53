"""No secret that was given as a setting is seen in a representation, an error or its traceback."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from surgetank.database.pool import Database, redact_url
from surgetank.exceptions import ConfigurationError
from surgetank.fallback.store import address_of, open_store
from surgetank.notify.alerts.delivery import open_channels
from surgetank.settings import load_settings

SECRET = "hunter2secret"


@pytest.mark.parametrize(
    "show",
    [
        lambda: load_settings(admin_token=SECRET),  # too short
        lambda: load_settings(database_urll=f"postgresql://u:{SECRET}@h/d"),  # misspelt
        lambda: load_settings(buffer_max_bytes=f"{SECRET}"),
        lambda: load_settings(support_url=f"http://{SECRET}"),
        lambda: load_settings(
            database_url=f"postgresql://u:{SECRET}@h/d", fallback_url=f"s3://a:{SECRET}@b", admin_token=SECRET * 2,
            alert_urls=f"mailto://u:{SECRET}@h", buffer_url=f"sqlite:////{SECRET}",
        ),
        lambda: redact_url(f"postgresql://u@h/d?password={SECRET}"),
        lambda: redact_url(f"host=h user=u password={SECRET}"),
        lambda: Database(f"postgresql://u:{SECRET}@h:no-port/d"),
        lambda: address_of(f"s3://k:{SECRET}@bucket/p"),
        lambda: address_of(f"https://bucket/p?a=1&X-Amz-Signature={SECRET}&b=2"),
        lambda: open_store(f"nosuch://k:{SECRET}@bucket/p"),
        lambda: open_channels([f"nosuch://u:{SECRET}@h", f"mailto://u:{SECRET}@h"]),
    ],
)  # fmt: skip
def test_a_secret_is_not_seen(show: Callable[[], object]) -> None:
    try:
        told = f"{show()!r}"
    except ConfigurationError as error:
        told = "".join(traceback.format_exception(error))
    assert SECRET not in told


def test_what_is_no_secret_stays_in_an_address() -> None:
    assert (
        address_of("https://bucket/p?a=1&X-Amz-Signature=x&b=2")
        == "https://bucket/p?a=1&X-Amz-Signature=***&b=2"
    )
    assert address_of("s3://bucket/p?region=eu") == "s3://bucket/p?region=eu"
