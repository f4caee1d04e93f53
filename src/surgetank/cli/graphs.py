"""`surgetank graphs`: does every graph of a `langgraph.json` load, and what is it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgetank.cli.output import Json, echo_error, out, print_json, table
from surgetank.exceptions import ConfigurationError, GraphNotLoaded, MissingExtra
from surgetank.workflows.graphs import importing
from surgetank.workflows.graphs.config import GraphsConfig, load

if TYPE_CHECKING:
    from surgetank.workflows.graphs.graph_set import GraphInfo


def graphs(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The project's langgraph.json.")
    ] = Path("langgraph.json"),
    json: Json = False,
) -> int:
    """Load every graph of a langgraph.json and say what it is, or why it can't be loaded.

    The project's code is imported, that of `http.app` and `auth.path` too; what it prints goes to
    stderr. No graph is run. Exit code 0 when all are loaded, 1 when one is not, 2 when the file itself can't be used.
    """
    found = load(config)
    with redirect_stdout(sys.stderr):
        infos, refused = asyncio.run(_load_all(found))
        for key, source in (("http.app", found.app), ("auth.path", found.auth)):
            try:
                if source is not None:
                    importing.loaded(found, key, source)
            except ConfigurationError as refusal:
                refused.append((key, refusal))
    if json:
        print_json(
            {
                "config": str(found.path),
                "graphs": [_plain(info) for info in infos],
                "refused": [
                    {
                        "name": name,
                        "what": e.what,
                        "remedy": e.remedy,
                        "frames": e.frames if isinstance(e, GraphNotLoaded) else (),
                    }
                    for name, e in refused
                ],
                "notes": found.notes,
            }
        )
        return 1 if refused else 0
    if infos:
        table(
            ("graph", "kind", "nodes", "assistant", "structure"),
            [(i.name, i.kind, ", ".join(i.nodes), i.assistant_id, i.structure_hash) for i in infos],
        )
    for info in infos:
        for note in info.notes:
            out.print(f"note: {info.name}: {note}")
    for note in found.notes:
        out.print(f"note: {note}")
    for _, error in refused:
        echo_error(error)
    return 1 if refused else 0


async def _load_all(
    config: GraphsConfig,
) -> tuple[list[GraphInfo], list[tuple[str, ConfigurationError]]]:
    try:
        from surgetank.workflows.graphs.graph_set import GraphSet  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra("langgraph", "langgraph", "Loading graphs") from error
    graph_set = GraphSet(config)
    infos: list[GraphInfo] = []
    refused: list[tuple[str, ConfigurationError]] = []
    for name in config.names:
        try:
            infos.append(await graph_set.info(name))
        except GraphNotLoaded as error:
            refused.append((name, error))
    return infos, refused


def _plain(info: GraphInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "kind": info.kind,
        "description": info.description,
        "nodes": info.nodes,
        "assistant_id": str(info.assistant_id),
        "structure_hash": info.structure_hash,
        "notes": info.notes,
    }
