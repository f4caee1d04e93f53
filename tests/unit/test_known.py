"""The dictionary of known words is part of the stored format."""

from __future__ import annotations

import hashlib
import threading

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from surgetank.encode.differences import dictionary, patch
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer

# Made with zstandard 0.25 by the version that introduced the codec: it must be read for ever.
STORED = (
    bytes.fromhex(
        "28b52ffd246ecd0100840220616e6420206f6620746865202c20372e302e32352c20666f72206576657220616e6420657665720500d078bb37ecede60a4b6808b282620d3ca3"
    ),
    b"updated_channels and messages of the branch:to:agent, 00000000000000000000000000000007.0.25, for ever and ever",
)


def test_the_dictionary_never_changes():
    digest = hashlib.sha256(dictionary.WORDS).hexdigest()
    assert digest == "c6ea6ee43f00ef7357d00db13af422be63d2f219eaaa2755d9aed9f66dbbb9a0"


def test_what_an_earlier_version_stored_is_read():
    packed, raw = STORED
    assert patch.decompress(patch.KNOWN, packed) == raw


@given(
    st.binary(max_size=400)
    | st.binary(max_size=400).map(lambda part: dictionary.WORDS[500:900] + part)
)
def test_every_value_comes_back(data):
    codec, packed = patch.compress_words(data)
    assert patch.decompress(codec, packed) == data
    assert len(packed) <= len(data)


def test_a_message_takes_less_than_without():
    _, data = FaithfulSerializer().dumps_typed(
        [HumanMessage("hello", id="1"), AIMessage("world", id="2")]
    )
    codec, packed = patch.compress_words(data)
    assert codec == patch.KNOWN
    assert len(packed) < len(patch.compress(data)[1]) / 2


def test_damage_is_noticed():
    packed = bytearray(dictionary.pack(dictionary.WORDS[900:1200]))
    packed[-1] ^= 1
    with pytest.raises(StateCorrupt):
        patch.decompress(patch.KNOWN, bytes(packed))
    with pytest.raises(zstandard.ZstdError):
        dictionary.unpack(b"nonsense")


def test_many_threads_use_it_at_once():
    values = [dictionary.WORDS[i : i + 300] * 3 for i in range(200)]
    failed: list[bytes] = []

    def work() -> None:
        failed.extend(
            value for value in values if dictionary.unpack(dictionary.pack(value)) != value
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
