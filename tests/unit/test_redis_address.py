"""URLs of Redis servers, and what is refused of them by name."""

from __future__ import annotations

import pytest

from surgetank.exceptions import ConfigurationError
from surgetank.redis.address import RedisAddress, Tls, is_redis, parse


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisAddress()),
        ("redis://h", RedisAddress(host="h")),
        ("valkey://h:1/3", RedisAddress(host="h", port=1, database=3)),
        ("redis://[::1]:7/", RedisAddress(host="::1", port=7)),
        ("redis://u:p%40ss@h", RedisAddress(host="h", username="u", password="p@ss")),
        ("redis://:p@h", RedisAddress(host="h", password="p")),
        ("redis://h?prefix=a.b-c_1&shards=3", RedisAddress(host="h", prefix="a.b-c_1", shards=3)),
        ("redis+unix:///run/r.sock?db=2", RedisAddress(path="/run/r.sock", database=2)),
        ("rediss://h", RedisAddress(host="h", tls=Tls())),
        ("valkeys://h?verify=none", RedisAddress(host="h", tls=Tls(verify=False))),
        (
            "redis+sentinel://u:p@a,b:2/m/3?sentinel_password=q",
            RedisAddress(
                host="a",
                username="u",
                password="p",
                database=3,
                nodes=(("a", 26379), ("b", 2)),
                service="m",
                sentinel_password="q",
            ),
        ),
        (
            "redis+cluster://a:1,[::1]",
            RedisAddress(host="a", port=1, nodes=(("a", 1), ("::1", 6379))),
        ),
        ("rediss+cluster://a", RedisAddress(host="a", nodes=(("a", 6379),), tls=Tls())),
    ],
)
def test_a_url_names_a_server_and_the_keys_of_one_buffer(url: str, expected: RedisAddress) -> None:
    assert parse(url) == expected
    assert is_redis(url)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:geheim@h?ca=/no/such.pem", "rediss://:geheim@h?verify=perhaps", "redis://:geheim@h?ca=x",
        "redis+sentinel://:geheim@h", "redis+sentinel://:geheim@h:x/m", "redis+cluster://:geheim@h/1",
        "redis+cluster://:geheim@h?db=1", "redis+tree://:geheim@h", "redis+cluster://:geheim@h,i:70000",
        "redis://:geheim@h:x", "redis://:geheim@h:70000", "redis://:geheim@h/x",
        "redis://:geheim@h?shards=0", "redis://:geheim@h?shards=65", "redis://:geheim@h?shards=x",
        "redis://:geheim@h?prefix=", "redis://:geheim@h?prefix={a}", "redis://:geheim@h?colour=1",
        "redis+unix://:geheim@", "redis://:geheim@h/-1", "redis://:geheim@h/\u0662",
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert caught.value.remedy
    assert "geheim" not in str(caught.value)


def test_a_name_for_people_never_has_the_password() -> None:
    for url in (
        "redis://u:geheim@h:1/2?prefix=x", "redis+unix://u:geheim@/run/r.sock", "rediss://u:geheim@h",
        "redis+sentinel://u:geheim@h,i/m?sentinel_password=geheim", "rediss+cluster://:geheim@h,i:3",
    ):  # fmt: skip
        address = parse(url)
        assert "geheim" not in address.name + repr(address)
        assert parse(address.name).host == address.host
        assert parse(address.name).prefix == address.prefix


def test_all_keys_of_a_shard_are_in_one_slot_of_a_cluster() -> None:
    """Of a key with braces, a cluster hashes what is in them."""
    address = parse("redis://h?prefix=agents")
    assert address.tag(7) == b"{agents:7}"
    assert address.tag(7) != address.tag(8)


@pytest.mark.parametrize("url", ["sqlite:///x", "redis", "/redis/x", "postgresql://redis"])
def test_other_urls_are_no_redis(url: str) -> None:
    assert not is_redis(url)
