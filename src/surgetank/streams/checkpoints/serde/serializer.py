"""The serializer: what is put comes back equal in value and type, or is refused with its place.

LangGraph's `JsonPlusSerializer` silently turns tuples into lists, lone surrogates into `?`, NumPy
object arrays into None, subclasses into their bases. This one keeps LangGraph's format for what it
carries, adds extension codes (encode/codes.py) for the rest, and refuses what is left. Plain data
is encoded in one go by ormsgpack and never walked in Python; a walk happens only to name the place
of what was refused.

Objects (pydantic models, dataclasses) are stored field by field and put together again without
running their constructors: nothing is validated or coerced on the way, so nothing changes.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from surgetank.encode import codes
from surgetank.exceptions import ConfigurationError, StateCorrupt, SurgetankError
from surgetank.streams.checkpoints.serde import forms
from surgetank.streams.checkpoints.serde.forms import ValueRefused
from surgetank.streams.checkpoints.serde.leaves import delta_snapshot
from surgetank.streams.checkpoints.serde.models import filled
from surgetank.streams.checkpoints.serde.types import Registry

__all__ = ["FaithfulSerializer", "ValueRefused", "faithful"]

_PLAIN = (
    ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_KEYS = ormsgpack.OPT_NON_STR_KEYS
_MAX_PATH = 120


class FaithfulSerializer(JsonPlusSerializer):
    """LangGraph's serializer without its silent losses. Never pickles."""

    def __init__(self, **options: Any) -> None:
        if options.pop("pickle_fallback", False):
            raise ConfigurationError(
                "Surgetank does not unpickle: whoever can write to the database could run code "
                "here.",
                remedy="leave pickle_fallback out and store what msgpack carries (to_dict() of a "
                "DataFrame, ...).",
            )
        super().__init__(**options)
        self._lg_hook = self._unpack_ext_hook
        self._registry = Registry(self._allowed_msgpack_modules)

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[Any]) -> FaithfulSerializer:
        widened = super().with_msgpack_allowlist(extra_allowlist)
        if widened is self:
            return self
        clone = copy.copy(self)
        clone.__dict__.update(widened.__dict__)
        clone._lg_hook = widened._unpack_ext_hook  # noqa: SLF001
        clone._registry = Registry(widened._allowed_msgpack_modules)  # noqa: SLF001
        return clone

    # -- writing

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Serialize. Raises `ValueRefused` naming the place of what would not come back as it
        is."""
        if obj is None:
            return "null", b""
        kind = type(obj)
        if kind is bytes:
            return "bytes", obj
        if kind is bytearray:
            return "bytearray", bytes(obj)
        if isinstance(obj, BaseException):  # LangGraph's convention for error writes: their repr
            return "msgpack", self._encode(repr(obj))
        try:
            return "msgpack", self._encode(obj)
        except ValueRefused:
            raise
        except Exception as error:
            raise self._locate(obj, error) from error

    def _encode(self, obj: Any) -> bytes:
        try:
            data: bytes = ormsgpack.packb(obj, default=self._default, option=_PLAIN)
        except ormsgpack.MsgpackEncodeError as error:
            _raise_interrupt()
            if not _may_be_wrapped(error):
                raise
            return ormsgpack.packb(forms.wrap(obj), default=self._default, option=_PLAIN | _KEYS)
        # ormsgpack writes bytearray and memoryview as bytes without asking; where no binary header
        # is, there is none.
        if (0xC4 in data or 0xC5 in data or 0xC6 in data) and forms.has_mutable_bytes(obj):
            return ormsgpack.packb(forms.wrap(obj), default=self._default, option=_PLAIN | _KEYS)
        return data

    def _default(self, obj: Any) -> Any:
        try:
            shape = self._registry.shapes.get(type(obj))
            if shape is not None:
                return ormsgpack.Ext(codes.OBJECT, shape.pack(obj, self._encode))
            code, payload = self._registry.take_apart(obj)
            if code in codes.RAW:
                return ormsgpack.Ext(code, payload)
            if code < codes.LG_NUMPY:  # LangGraph takes these apart, and doesn't know our forms
                return ormsgpack.Ext(code, self._encode_for_langgraph(obj, payload))
            return ormsgpack.Ext(code, self._encode(payload))
        except Exception:
            raise  # `_locate` asks again
        except BaseException as interrupt:
            _swallowed.error = interrupt
            raise

    def _encode_for_langgraph(self, obj: Any, payload: Any) -> bytes:
        try:
            return ormsgpack.packb(payload, default=self._default, option=_PLAIN)
        except ormsgpack.MsgpackEncodeError as error:
            if "surrogate" not in str(error):
                raise
            kind = type(obj).__name__
            raise ValueRefused(
                "", f"a {kind} with a lone surrogate in it", "store its text"
            ) from error

    def _locate(self, value: Any, error: Exception) -> ValueRefused:
        """Walk to the innermost part that can't be encoded and say where it is."""
        path, seen = "", {id(value)}
        for _ in range(_MAX_PATH):
            failing = self._failing_child(value)
            if failing is None:
                return ValueRefused(path, *self._why(value, error))
            step, value, error = failing
            path += step
            if id(value) in seen and isinstance(value, (dict, list, tuple)):
                return ValueRefused(
                    path, "a cycle", "store ids instead of references that lead back"
                )
            seen.add(id(value))
        return ValueRefused(
            path,
            "nested too deeply for msgpack (about 120 levels)",
            "store it as text, or flatten it",
        )

    def _why(self, value: Any, error: Exception) -> tuple[str, str]:
        if type(value) not in forms.PLAIN:
            try:  # ormsgpack doesn't pass on what our code raises: ask again
                self._default(value)
            except (ValueRefused, ormsgpack.MsgpackEncodeError) as again:
                error = again
        return forms.reason(value, error)

    def _failing_child(self, value: Any) -> tuple[str, Any, Exception] | None:
        for step, child in forms.children(value):
            try:
                self._encode(child)
            except Exception as error:  # noqa: BLE001 - this is the one that is looked for; it is told by its place
                return step, child, error
        return None

    # -- reading

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Deserialize what this class or LangGraph's serializer wrote. Raises `StateCorrupt`."""
        type_, raw = data
        if type_ == "pickle":
            raise ConfigurationError(
                "The stored value is pickled, and Surgetank does not unpickle.",
                remedy="convert it with the program that wrote it.",
            )
        try:
            return self._decode(raw) if type_ == "msgpack" else super().loads_typed(data)
        except (SurgetankError, MemoryError):
            raise
        except Exception as error:
            raise StateCorrupt(
                f"A stored value of {len(raw)} bytes can't be read ({type(error).__name__}: "
                f"{str(error)[:500]}).",
                remedy="if a class of the state refuses it, mend the class; damaged bytes come "
                "back from a backup "
                "of the database only.",
            ) from error

    def _decode(self, data: bytes) -> Any:
        try:
            return ormsgpack.unpackb(data, ext_hook=self._hook, option=_KEYS)
        except ValueError as error:
            raise _swallowed.take() or error from None

    def _hook(self, code: int, data: bytes) -> Any:
        try:
            if code == codes.OBJECT:
                return self._registry.build_object(*self._decode(data))
            if code == codes.TUPLE:
                return tuple(self._decode(data))
            if code >= codes.BIG_INT:
                return self._registry.put_together(code, data, self._decode)
            if code == codes.LG_DELTA:
                return delta_snapshot(self._decode(data))
            made = self._lg_hook(code, data)
            return filled(made) if code in (codes.LG_PYDANTIC1, codes.LG_PYDANTIC2) else made
        except BaseException as error:
            _swallowed.error = error
            raise


class _Swallowed(threading.local):
    """What our code raised inside ormsgpack, which tells only that something was raised."""

    error: BaseException | None = None

    def take(self) -> BaseException | None:
        error, self.error = self.error, None
        return error


_swallowed = _Swallowed()


def _raise_interrupt() -> None:
    interrupt = _swallowed.take()
    if interrupt is not None:
        raise interrupt


def _may_be_wrapped(error: Exception) -> bool:
    """Whether the failure is about text or keys that can be carried in another form."""
    text = str(error)
    return "surrogate" in text or "key" in text.lower() or "64-bit" in text


def is_faithful(serde: SerializerProtocol) -> bool:
    """Whether the promise of an equal value holds with this serializer."""
    return isinstance(
        serde.serde if isinstance(serde, EncryptedSerializer) else serde, FaithfulSerializer
    )


def faithful(serde: SerializerProtocol | None) -> SerializerProtocol:
    """The faithful counterpart of what a user configured.

    LangGraph's default serializer (also inside an `EncryptedSerializer`) is replaced with the same
    allowlists; any other serializer is used as it is, and what it loses is its own affair.
    """
    if serde is None:
        return FaithfulSerializer()
    if type(serde) is JsonPlusSerializer:
        if serde.pickle_fallback:
            return FaithfulSerializer(pickle_fallback=True)  # refused there, with the way out
        made = FaithfulSerializer(allowed_msgpack_modules=serde._allowed_msgpack_modules)  # noqa: SLF001
        made._allowed_json_modules = serde._allowed_json_modules  # noqa: SLF001
        return made
    if type(serde) is EncryptedSerializer:
        return EncryptedSerializer(serde.cipher, faithful(serde.serde))
    return serde
