"""`surgetank workers`: who flushes, runs graphs or serves, on all hosts."""

from __future__ import annotations

from surgetank.cli.output import DatabaseUrl, Home, Json, engine, out, print_json, table, when


def workers(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """List the processes that flush, run graphs or serve: who is alive, what they hold, how fast they are.

    A process that was killed is silent, and listed for a day; what it held is taken over by others. The
    list is in the database, so it has the processes of all hosts.
    """
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        found = tank.workers()
    if json:
        print_json(found)
        return
    if not found:
        out.print("No process flushes, runs graphs or serves.")
        return
    table(
        ("node", "host", "pid", "roles", "state", "since", "runs", "partitions", "followers", "entries/s", "runs/s"),
        [
            (
                each.node,
                each.host,
                each.pid,
                ",".join(each.roles),
                f"silent for {each.silent_s:.0f} s" if each.state == "silent" else each.state,
                when(each.since),
                each.runs,
                each.partitions,
                each.followers,
                f"{each.entries_per_s:.1f}",
                f"{each.runs_per_s:.1f}",
            )
            for each in found
        ],
        right=(2, 6, 7, 8, 9, 10),
    )  # fmt: skip
