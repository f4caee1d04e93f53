"""Runs a script in its folder, in a process that has loaded what the scripts of the documentation import.

python -m support.script FOLDER/page.py
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import langgraph.checkpoint.postgres
import langgraph.checkpoint.sqlite
import langgraph.graph
import pyarrow as pa
import pytest

import surgetank.server.app
import surgetank.testing

LOADED = (langgraph, pa, pytest, surgetank)

if __name__ == "__main__":
    path = Path(sys.argv[1])
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    sys.argv = [path.name]
    runpy.run_path(path.name, run_name="__main__")
