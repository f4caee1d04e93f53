"""The msgpack extension codes that Surgetank adds to LangGraph's (0 to 7), for what LangGraph's
would lose.

Shared by the serializer (streams/checkpoints/serde/serializer.py) and by the plain reader for SQL
(encode/plain.py).
"""

from __future__ import annotations

TUPLE = 80  # items
BIG_INT = 81  # two's complement, big endian
TEXT = 82  # UTF-8 with surrogates passed through
BYTEARRAY = 83  # the bytes
PAIRS = 84  # a dict as a list of (key, value), for keys that msgpack would change
COLLECTION = 85  # module, qualname, base, content, extra
NUMPY_SCALAR = 86  # dtype, bytes
NUMPY_ITEMS = 87  # dtype description, shape, items: object and structured arrays
COMPLEX = 88  # real, imaginary
OBJECT = 89  # module, qualname, form, fields, extra
ENUM = 90  # module, qualname, name, value
DATETIME = 91  # year ... microsecond, tzinfo, fold
SEND = 92  # node, arg, timeout

# LangGraph's own (langgraph/checkpoint/serde/jsonplus.py)
LG_SINGLE, LG_POSITIONAL, LG_KEYWORDS, LG_METHOD, LG_PYDANTIC1, LG_PYDANTIC2, LG_NUMPY, LG_DELTA = (
    range(8)
)

RAW = frozenset((BIG_INT, TEXT, BYTEARRAY))  # their payload is not msgpack
