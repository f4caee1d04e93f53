"""Where webhooks may go: URLs that are refused, addresses that are not public, names that change what
they point to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import socket
import uuid
from typing import Any

import pytest

from surgetank.exceptions import ConfigurationError, WebhookRefused
from surgetank.workflows.webhooks.payload import MAX_VALUES, body_of, run_of
from surgetank.workflows.webhooks.post import key_of, signed
from surgetank.workflows.webhooks.sender import SendingPolicy
from surgetank.workflows.webhooks.targets import AllowedTargets, WebhookTarget, is_public

BAD = [
    "", "/hooks", "hooks.example.org", "ftp://hooks.example.org", "file:///etc/passwd", "https://",
    "https:///path", "javascript:alert(1)", "https://ada:pw@hooks.example.org/", "https://ada@hooks.example.org/",
    "https://hooks.example.org:99999/", "https://hooks.example.org:0/", "https://hooks.example.org:x/",
    "https://hooks.example.org/\r\nHost: other", "https://hooks.example.org/\tx", "https://hooks example.org/",
    "https://h\u00f6oks.example.org/", "https://hooks.example.org\\@127.0.0.1/", "https://[::1", "gopher://x/",
    "https://[fe80::1%25eth0]/", "https://hooks.example.org/" + "x" * 3000, "https://hooks.example.org/\x00",
]  # fmt: skip
NOT_PUBLIC = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "100::1", "fe80::1%eth0",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"]


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_can_t_be_a_webhook_s_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(WebhookRefused) as refused:
        AllowedTargets().check_url(url)
    assert refused.value.remedy
    assert len(url) < 9 or url not in str(refused.value)


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(WebhookRefused):
        AllowedTargets().check_url(f"http://{host}/")


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_taken(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    AllowedTargets().check_url(f"http://[{text}]/" if ":" in text else f"http://{text}/")


def test_a_url_is_taken_apart_and_only_its_origin_is_shown() -> None:
    target = WebhookTarget.of("https://Hooks.Example.org:8443/a/b?key=1#part")
    assert (target.host, target.port, target.path) == ("hooks.example.org", 8443, "/a/b?key=1")
    assert target.origin == "https://hooks.example.org:8443"
    assert WebhookTarget.of("http://[2606:4700::1]:80/").authority == "[2606:4700::1]"


def resolving(*addresses: str) -> Any:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    return resolve


def test_what_a_name_points_to_is_checked_when_it_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = WebhookTarget.of(f"http://rebinding.example.org:{listening.getsockname()[1]}/")
        for points_to in ("127.0.0.1", "10.0.0.1", "169.254.169.254"):
            with pytest.raises(WebhookRefused):
                AllowedTargets(resolve=resolving(points_to)).connect(target, 1.0)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody knocked
            listening.accept()


def test_a_name_is_resolved_once_and_only_allowed_addresses_are_connected_to() -> None:
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def resolve(host: str, port: int, **_: Any) -> Any:
            asked.append(host)
            return resolving("10.0.0.1", "127.0.0.1")(host, port)

        rules = AllowedTargets(["127.0.0.1"], resolve=resolve)
        with rules.connect(
            WebhookTarget.of(f"http://x.test:{listening.getsockname()[1]}/"), 5.0
        ) as made:
            assert made.getpeername() == listening.getsockname()
    assert asked == ["x.test"]


def test_operators_allow_hosts_addresses_and_networks() -> None:
    rules = AllowedTargets(["Internal.test", "10.1.0.0/16", "fd00::/8"])
    address = ipaddress.ip_address
    assert rules.allows("internal.test", address("192.168.0.1"))
    assert rules.allows("other.test", address("10.1.2.3"))
    assert rules.allows("other.test", address("::ffff:10.1.2.3"))
    assert rules.allows("other.test", address("fd00::1"))
    assert not rules.allows("other.test", address("10.2.0.1"))
    assert not rules.allows("notinternal.test", address("192.168.0.1"))


def test_a_message_is_signed_as_standard_webhooks_has_it() -> None:
    # The example of the specification's reference libraries.
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])
    assert headers["Webhook-Signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    other = key_of("any text")
    both = signed("m", 1, b"{}", [key, other])["Webhook-Signature"].split()
    expected = base64.b64encode(hmac.digest(b"any text", b"m.1.{}", hashlib.sha256)).decode()
    assert both[1] == f"v1,{expected}"
    assert "Webhook-Signature" not in signed("m", 1, b"{}", [])
    with pytest.raises(ConfigurationError):
        key_of("whsec_***")


def test_pauses_grow_and_are_bounded() -> None:
    policy = SendingPolicy()
    pauses = [policy.pause_s(n) for n in range(1, 11)]
    assert pauses[:3] == [5, 20, 80]
    assert max(policy.pause_s(9), 0) == policy.pause_s(10**6) == 6 * 3600
    assert sum(pauses[:9]) > 19 * 3600


def test_a_state_that_is_too_large_is_left_out_and_it_says_so() -> None:
    moment, id_ = "2026-11-21T09:00:00.5+00:00", str(uuid.uuid4())
    run = run_of(
        {
            **dict.fromkeys(("created_at", "due_at", "updated_at", "ended_at"), moment),
            "run_id": id_, "workflow_id": id_, "thread_id": "t", "assistant_id": "a", "status": "completed",
            "multitask_strategy": "enqueue", "kwargs": {"__otel": {}, "input": 1}, "metadata": {},
        }
    )  # fmt: skip
    small = body_of(run, {"x": 1}, sent_at="now")
    assert b'"values":{"x":1}' in small
    assert b"__otel" not in small
    large = body_of(run, {"x": "y" * MAX_VALUES}, sent_at="now")
    assert len(large) < 2000
    assert b'"values_omitted":true' in large
