"""Stored text made safe to print. Pure.

A thread's id or a message is whatever somebody sent: printed as it is, ESC moves the cursor and
sets colours, CR writes over what stands there, and bidirectional controls turn around what one
reads. They are shown by their escapes instead.
"""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1), format characters (bidirectional controls, zero width, tags ...)
# except the joiners that scripts and emoji need, line and paragraph separators, and surrogates:
# Unicode's Cc, Cf, Zl, Zp, Cs.
_FORMAT = (
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f"
)
_INLINE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_FORMAT}]")
_BLOCK = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_FORMAT}]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def inline(text: str) -> str:
    """Text that stays in its line."""
    return _INLINE.sub(_escape, text)


def block(text: str) -> str:
    """Text that may have several lines, and tabs: a stack trace."""
    return _BLOCK.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
