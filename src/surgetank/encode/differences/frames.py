"""zstd frames of bounded size, with or without a dictionary."""

from __future__ import annotations

from functools import lru_cache

import zstandard

LEVEL = 3
_MAX_UNDECLARED = 1 << 30  # bytes of what is stored without its length
# zstd's contexts that nobody uses at the moment: making one costs ten times what compressing a
# small value does, and one serves only one caller at a time. Taking from a list and adding to it
# are atomic.
_compressors: list[zstandard.ZstdCompressor] = []
_decompressors: list[zstandard.ZstdDecompressor] = []


def compress_full(data: bytes | memoryview) -> bytes:
    try:
        context = _compressors.pop()
    except IndexError:
        context = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    packed = context.compress(data)
    _compressors.append(context)
    return packed


def decompress_full(data: bytes, size: int | None) -> bytes:
    check_frame(data, size)
    try:
        context = _decompressors.pop()
    except IndexError:
        context = zstandard.ZstdDecompressor()
    raw = context.decompress(data)
    _decompressors.append(context)
    return raw


def check_frame(data: bytes, size: int | None) -> None:
    """Raise `ValueError` unless a frame says the size that is expected: zstd takes no more memory
    than it says."""
    said = zstandard.frame_content_size(data)
    if not 0 <= said <= _MAX_UNDECLARED or size not in (None, said):
        raise ValueError(
            f"its frame says {said} bytes" + (f" instead of {size}" if size is not None else "")
        )


def decompress_with(dictionary: bytes, data: bytes, size: int | None) -> bytes:
    check_frame(data, size)
    older = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=older, max_window_size=1 << 31).decompress(data)


def compress_with(dictionary: bytes, data: bytes) -> bytes:
    older = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = _parameters(len(dictionary).bit_length(), len(data).bit_length())
    return zstandard.ZstdCompressor(dict_data=older, compression_params=parameters).compress(data)


@lru_cache(maxsize=1024)
def _parameters(base_bits: int, data_bits: int) -> zstandard.ZstdCompressionParameters:
    """Parameters for sizes below these powers of two; the window holds base and data."""
    return zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=1 << data_bits,
        dict_size=1 << base_bits,
        window_log=min(max(10, max(base_bits, data_bits) + 1), 27),
        write_checksum=True,
    )
