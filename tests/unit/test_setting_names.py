"""The typed keywords of `Surgetank(...)` are the settings, no more and no fewer, and of kinds that
they accept."""

from __future__ import annotations

from typing import get_type_hints

from pydantic import SecretStr, TypeAdapter

from surgetank.setting_names import SettingNames
from surgetank.settings import Settings

ARGUMENTS = {"home", "database_url", "buffer_url"}


def test_every_setting_is_a_keyword_and_every_keyword_a_setting():
    assert set(get_type_hints(SettingNames)) == set(Settings.model_fields) - ARGUMENTS


def test_the_default_of_every_setting_is_of_its_keyword_s_kind():
    hints = get_type_hints(SettingNames)
    for name, field in Settings.model_fields.items():
        if name not in ARGUMENTS:
            default = field.get_default(call_default_factory=True)
            kind = TypeAdapter(hints[name], config={"arbitrary_types_allowed": True})
            kind.validate_python(default, strict=not isinstance(default, SecretStr))
