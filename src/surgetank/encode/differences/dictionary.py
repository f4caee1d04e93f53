"""zstd with a dictionary of what LangGraph's and LangChain's own words are, for values too short to
have seen them.

A checkpoint without its values and a pending write of one message consist for a third of names that
all of them share. The dictionary is part of the stored format: it may never change. A better one
gets a codec of its own.
"""

from __future__ import annotations

import zstandard

LEVEL = 3
# Serialized messages of each kind, then a checkpoint's body; the likeliest last, as zstd finds near
# things cheaper.
WORDS = (
    b"\x8d\xa5error\xc0\xa6result\xc3\xa6status\xa9completed\xa4name\xa5agent\xa4type\xa4text\xa7conten"
    b"t\xa0\xa5title\xa0\xabdescription\xa0\xaacreated_at\xa0\xa4data\x90\xa5items\x90\xa5input\xa0\xa6"
    b"output\xa0\xc7\xcfY\x95\xbclangchain_core.messages.tool\xabToolMessage\xa5model\x89\xa7content"
    b"\xa0\xb1additional_kwargs\x80\xb1response_metadata\x80\xa4type\xa4tool\xa4name\xa0\xa2id\xa0\xact"
    b"ool_call_id\xa5call_\xa8artifact\xc0\xa6status\xa7success\x93\x96\xa6\x005LSb`\xa7content\xa4name"
    b"\xa2id\xactool_call_id\xa6status\x80\xc0\xc7\xacY\x95\xbelangchain_core.messages.system\xadSystem"
    b"Message\xa5model\x86\xa7content\xbcYou are a helpful assistant.\xb1additional_kwargs\x80\xb1respo"
    b"nse_metadata\x80\xa4type\xa6system\xa4name\xc0\xa2id\xa0\x93\x93\xa6\x000#`Md\xa7content\xa2id"
    b"\x80\xc0\xc8\x03^Y\x95\xbalangchain_core.messages.ai\xa9AIMessage\xa5model\x89\xa7content\xa0\xb1"
    b"additional_kwargs\x80\xb1response_metadata\x8a\xabtoken_usage\x85\xb1completion_tokens\x00\xadpro"
    b"mpt_tokens\x00\xactotal_tokens\x00\xb9completion_tokens_details\x84\xbaaccepted_prediction_tokens"
    b"\x00\xacaudio_tokens\x00\xb0reasoning_tokens\x00\xbarejected_prediction_tokens\x00\xb5prompt_toke"
    b"ns_details\x82\xacaudio_tokens\x00\xadcached_tokens\x00\xaamodel_name\xa4gpt-\xb2system_fingerpri"
    b"nt\xc0\xadfinish_reason\xa4stop\xaemodel_provider\xa6openai\xa2id\xa4msg_\xa5model\xa7claude-\xab"
    b"stop_reason\xa8tool_use\xadstop_sequence\xc0\xa5usage\x84\xacinput_tokens\x00\xbbcache_creation_i"
    b"nput_tokens\x00\xb7cache_read_input_tokens\x00\xadoutput_tokens\x00\xa4type\xa2ai\xa4name\xc0\xa2"
    b"id\xa5run--\xaatool_calls\x91\x84\xa4name\xa6search\xa4args\x81\xa5query\xa0\xa2id\xa5call_\xa4ty"
    b"pe\xa9tool_call\xb2invalid_tool_calls\x90\xaeusage_metadata\x85\xacinput_tokens\x00\xadoutput_tok"
    b"ens\x00\xactotal_tokens\x00\xb3input_token_details\x82\xaecache_creation\x00\xaacache_read\x00"
    b"\xb4output_token_details\x81\xa9reasoning\x00\x93\x97\xa6\x00-OjSs\xa7content\xb1response_metadat"
    b"a\xa4name\xa2id\xaatool_calls\xaeusage_metadata\x80\xc0\x92\xc7\x8dY\x95\xbdlangchain_core.messag"
    b"es.human\xacHumanMessage\xa5model\x86\xa7content\xa0\xb1additional_kwargs\x80\xb1response_metadat"
    b"a\x80\xa4type\xa5human\xa4name\xc0\xa2id\xa0\x93\x93\xa6\x00Dbuv|\xa7content\xa2id\x80\xc0\xc7"
    b"\xb4Y\x95\xbalangchain_core.messages.ai\xa9AIMessage\xa5model\x89\xa7content\xa0\xb1additional_kw"
    b"args\x80\xb1response_metadata\x80\xa4type\xa2ai\xa4name\xc0\xa2id\xa0\xaatool_calls\x90\xb2invali"
    b"d_tool_calls\x90\xaeusage_metadata\xc0\x93\x93\xa6\x00-OjSs\xa7content\xa2id\x80\xc0\x96\xc5\x02"
    b"\x87\x86\xa1v\x04\xa2ts\xd9 2026-01-01T00:00:00.000000+00:00\xa2id\xb81f0c0000-0000-6000-8000-"
    b"\xb0channel_versions\x85\xa9__start__\xd9#00000000000000000000000000000002.0.\xa8messages\xd9#000"
    b"00000000000000000000000000002.0.\xafbranch:to:agent\xd9#00000000000000000000000000000002.0.\xafbr"
    b"anch:to:tools\xd9#00000000000000000000000000000002.0.\xae__pregel_tasks\xd9#000000000000000000000"
    b"00000000002.0.\xadversions_seen\x85\xa9__input__\x80\xa9__start__\x81\xa9__start__\xd9#0000000000"
    b"0000000000000000000002.0.\xad__interrupt__\x81\xa9__start__\xd9#00000000000000000000000000000002."
    b"0.\xa5agent\x81\xafbranch:to:agent\xd9#00000000000000000000000000000002.0.\xa5tools\x81\xafbranch"
    b":to:tools\xd9#00000000000000000000000000000002.0.\xb0updated_channels\x92\xafbranch:to:agent\xa8m"
    b"essages\x92\xa8messages\xafbranch:to:agent\xa7msgpack\xc4\xa5\x8b\xa6source\xa4loop\xa4step\x01"
    b"\xa7parents\x80\xa6run_id\xa0\xa9thread_id\xa0\xa7user_id\xa0\xacassistant_id\xa0\xa8graph_id\xa0"
    b"\xb1langgraph_version\xa0\xb5langgraph_api_version\xa0\xbdcounters_since_delta_snapshot\x81\xa8me"
    b"ssages\x92\x01\x01\xc0\x82\xafbranch:to:agent\x92\xa4null\xc4\x00\xa4step\x92\xa7msgpack\xc4\x01"
    b"\x01"
)

_dictionary = zstandard.ZstdCompressionDict(WORDS, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
_dictionary.precompute_compress(level=LEVEL)
# Contexts that nobody uses at the moment; one serves only one caller at a time. Taking and adding
# are atomic.
_compressors: list[zstandard.ZstdCompressor] = []
_decompressors: list[zstandard.ZstdDecompressor] = []


def pack(data: bytes | memoryview) -> bytes:
    """The compressed bytes, with a checksum."""
    try:
        context = _compressors.pop()
    except IndexError:
        context = zstandard.ZstdCompressor(LEVEL, dict_data=_dictionary, write_checksum=True)
    packed = context.compress(data)
    _compressors.append(context)
    return packed


def unpack(data: bytes) -> bytes:
    """The bytes behind `pack`. Raises `zstandard.ZstdError`."""
    try:
        context = _decompressors.pop()
    except IndexError:
        context = zstandard.ZstdDecompressor(dict_data=_dictionary)
    raw = context.decompress(data)
    _decompressors.append(context)
    return raw
