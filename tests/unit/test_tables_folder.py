"""Files of tables on a disk that is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgetank.streams.tables.cold.location import FolderLocation


def test_a_write_to_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        raise OSError(28, "No space left on device")  # as a write says it

    with pytest.raises(OSError, match=r"No space left on device: .*x\.parquet") as caught:
        FolderLocation(tmp_path).store("1/x.parquet", write)
    assert caught.value.errno == 28
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []
