"""Measurements side by side with LangGraph's own savers, in one run on one machine.

`measures/` has one module per measured thing, `peers.py` everything that is compared, `harness.py`
the rounds and the statistics, `bars.py` what Surgetank asks of itself, `report.py` and `plot.py`
what is shown.
"""
