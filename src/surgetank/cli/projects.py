"""Opening the graphs of a langgraph.json for commands that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import announce
from surgetank.exceptions import MissingExtra
from surgetank.workflows.graphs.config import GraphsConfig

if TYPE_CHECKING:
    from surgetank.workflows.graphs.graph_set import GraphSet


def open_graphs(tank: Surgetank, project: GraphsConfig) -> GraphSet:
    """The graphs, with the engine's checkpointer; says what of the file is not used.

    Raises `MissingExtra`, and `GraphNotLoaded` for a graph that the file names wrongly.
    """
    try:
        from surgetank.workflows.graphs.graph_set import GraphSet  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra("langgraph", "langgraph", "Running graphs") from error
    for refusal in project.refused.values():
        raise refusal
    for note in project.notes:
        announce(f"{project.path.name}: {note}", "graphs_note", note=note)
    tank.set_store_of(project)
    tank.lifetimes = project.lifetimes
    return GraphSet(project, checkpointer=tank.checkpointer(), store=tank.store())
