"""How long the proofs by chance are: a small share in every run, the whole in `make torture`."""

from __future__ import annotations

import os

SEEDS = range(1, 1 + int(os.environ.get("SURGETANK_TORTURE_SEEDS", "2")))
