"""How long the proofs by chance are: a small share in every run, the whole in `make torture`."""

from __future__ import annotations

import os

_GIVEN = os.environ.get("SURGETANK_TORTURE_SEEDS")
TORTURED = bool(_GIVEN)
SEEDS = range(1, 1 + int(_GIVEN or 2))
FEW_SEEDS = SEEDS if _GIVEN else SEEDS[:1]  # of what has suites of known points beside it
