"""Pictures of the console for the documentation: `make screenshots`.

A support agent's day: conversations, questions to people, errors, an entry that the database refused, an
outage that is over and one that is not. Every page is taken in light, dark and on a telephone; with
`python -m support.scene threads thread` only these.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from support.agents import agents, run_on
from support.browser import Visitor, find_chromium, running_browser, visiting
from support.http import ADMIN_TOKEN, Server, running
from support.postgres import PostgresServer, make_template, running_server
from support.questions import ask, working
from support.savers import put
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.console.app import Console
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus, Record
from surgetank.server.services import Services

FOLDER = Path(__file__).parents[2] / "docs/images/console"
MAIL: dict[str, Any] = {
    "action_requests": [
        {
            "name": "refund_order",
            "description": "The order arrived broken; the customer sent a picture.",
            "args": {"order": "4821", "amount_eur": 39.9, "reason": "arrived broken"},
        },
        {
            "name": "send_mail",
            "args": {
                "to": "ada@example.com",
                "text": "Dear Ada,\n\nwe are sorry. 39.90 EUR are on their way to your account.",
            },
        },
    ],
    "review_configs": [
        {"action_name": "refund_order", "allowed_decisions": ["approve", "edit", "reject"]},
        {"action_name": "send_mail", "allowed_decisions": ["approve", "edit", "reject", "respond"]},
    ],
}
ORDER = "order-4711"
SIZES = {"light": (1240, 860), "dark": (1240, 860), "phone": (390, 780)}


def fill(tank: Surgetank) -> None:
    """What happened until now."""
    saver = tank.checkpointer()
    for thread, owner in (
        ("onboarding-ben", "ben"),
        ("travel-oslo", "eve"),
        ("weekly-report", "ada"),
    ):
        for step in range(4):
            put(saver, thread, {"step": step}, user_id=owner)
        tank.emit_log("The plan has four steps.", thread_id=thread, logger="agent")
        tank.run_ended(thread)
    for n, (text, level) in enumerate(_LOG):
        tank.emit_log(text, thread_id="refund-4821", level=level, logger="agent", fields={"n": n})
    put(saver, "refund-4821", {"step": 1}, user_id="ada")
    for n in range(7):
        _report(
            tank,
            "tool_failed",
            f"The tool crm_lookup did not answer within {n + 5} s.",
            "travel-oslo",
        )
    _report(tank, "model_overloaded", "The model refused: too many requests.", "weekly-report")
    for n in range(3):
        _report(
            tank,
            "payment_timeout",
            f"Order {4800 + n}: the payment service timed out.",
            "refund-4821",
        )
    tank.flush()
    for n in range(60):
        for thread in ("onboarding-ben", "travel-oslo", "weekly-report")[: 1 + n % 3]:
            tank.emit_log(f"Step {n} is done.", thread_id=thread, logger="agent")
        tank.flush("thread_logs")
    paid = next(e for e in tank.errors.find().errors if e.error_type == "payment_timeout")
    tank.errors.act(paid.id, "resolve", "ops", notes="The service was restarted.")
    _report(tank, "payment_timeout", "Order 4821: the payment service timed out.", "refund-4821")


def remember(tank: Surgetank) -> None:
    """The flushes of an hour, as the log of jobs has them; twice the database was away."""
    now = tank.now()
    for minute in range(2, 60):
        for number, stream in enumerate(tank.streams):
            if minute % (number + 1):
                continue
            at, rows = now - 60 * minute - number, (minute * 7 + number) % 40 + 1
            is_ok = minute not in (22, 23, 41)
            result = JobResult.of(
                {
                    "entries_flushed": rows * is_ok, "rows_flushed": rows * is_ok,
                    "partitions_processed": 1, "partitions_failed": int(not is_ok),
                }
            )  # fmt: skip
            status = JobStatus.COMPLETED if is_ok else JobStatus.FAILED
            job_id = f"{minute:02d}{number}{'0123456789abcdef' * 2}"[:32]
            job = FlushJob(
                job_id, stream, "schedule", status, at, "server-1", at, at + 0.02, result=result
            )
            tank.parts.buffer.save_job(job)


def decide_some(tank: Surgetank) -> UUID:
    """What people decided before: mostly as it was offered. The one that was changed."""
    for n, action in enumerate(("approve", "approve", "reject", "approve", "edit")):
        row = ask(tank, f"refund-47{10 + n}", MAIL)
        args = MAIL["action_requests"][1]["args"]
        text = (
            args["text"]
            .replace("39.90 EUR", "25.00 EUR")
            .replace("we are sorry", "we are very sorry")
        )
        mail = {
            "type": "edit",
            "edited_action": {"name": "send_mail", "args": {**args, "text": text}},
        }
        answers = [{"type": "approve"}, mail] if action == "edit" else [{"type": action}] * 2
        tank.approvals.resolve(
            row.checkpoint_id, action, actor=("ada", "ben")[n % 2], response={"decisions": answers},
            notes="One glass of two was broken." if action == "edit" else None,
        )  # fmt: skip
    return row.checkpoint_id


def park(tank: Surgetank) -> None:
    """The database refuses an entry."""
    tank.parts.buffer.append("thread_logs", "import-2019", (Record(b"l", b"no line of a log"),))
    tank.flush()
    wait_until(tank.parked, "the entry to be set aside")


_LOG = (
    ("Ada writes about order 4821.", "info"),
    ("Reads the order: 2 items, 39.90 EUR, delivered on 21 November.", "info"),
    ("The payment service answered late (2.8 s).", "warning"),
    ("order=4821 status=delivered carrier=post", "debug"),
    ("The picture shows a broken glass.", "info"),
    ("payment_timeout: the refund could not be prepared, trying again.", "error"),
    ("The refund is prepared. A person has to approve it.", "info"),
)


def _report(tank: Surgetank, kind: str, text: str, thread: str) -> None:
    try:
        raise TimeoutError(text)
    except TimeoutError as error:
        tank.log_system_error(
            kind, text, thread_id=thread, error=error, context={"attempt": 2, "node": "tools"}
        )


def _talk(server: Server) -> str:
    """A conversation with the agent of the project; its last run, which asks a person."""
    client, said = (
        server.as_role("user", "ada"),
        "My order 4711 arrived broken. May I have my money back?",
    )
    run_on(
        client,
        ORDER,
        {"messages": [{"role": "user", "content": said}], "order": "4711", "pause": 0.3},
    )
    said = "It has not come yet. When will it?"
    run = run_on(
        client, ORDER, {"messages": [{"role": "user", "content": said}], "ask": True, "pause": 0.1}
    )
    return str(run["run_id"])


def _state_of(tank: Surgetank) -> str:
    """The state after the step that looked at the order."""
    history = tank.threads.stored().history(ORDER, limit=20, channels=())
    return next(each.parent_id for each in history if each.writes and each.parent_id)


def fill_tables(tank: Surgetank, server: Server) -> None:
    """Tables of a shop, what was done, and who may come in."""
    tank.sql(
        "CREATE NAMESPACE shop;"
        "CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, thread_id TEXT, item TEXT NOT NULL, price DECIMAL(10, 2),"
        " placed_at TIMESTAMPTZ) WITH (FLUSH_POLICY = 'rows:1000,interval:60');"
        "CREATE TABLE shop.feedback (id BIGINT PRIMARY KEY, stars INT, text TEXT);"
        "CREATE SHARED TABLE shop.prices (item TEXT PRIMARY KEY, price DECIMAL(10, 2)) WITH (ACCESS_LEVEL = 'read')"
    )
    items = ("a hat", "a kettle", "a lamp", "a map of Oslo", "tea", "a thermometer")
    for number in range(240):
        user, item = ("ada", "ben", "eve")[number % 3], items[number * 7 % 6]
        row = [
            number,
            item,
            f"{5 + number * 37 % 90}.90",
            f"2026-11-{1 + number // 9:02d}T09:00:00Z",
        ]
        tank.sql("INSERT INTO shop.orders VALUES ($1, 'refund-4821', $2, $3, $4)", row, user=user)
        if number == 200:
            tank.tables.flush("shop.orders")
    tank.sql("INSERT INTO shop.feedback VALUES (1, 4, 'The kettle came fast.')", user="ada")
    for user, role, label in (
        ("ada", "user", "web shop"), ("ben", "reviewer", "approvals"), ("ops", "operator", "grafana"),
    ):  # fmt: skip
        server.token(role, user, label=label)
    tank.audit.note("token_made", "admin", detail={"user": "ops", "role": "operator"})
    tank.audit.note("exported", "ops", thread_id="refund-4821", detail={"rows": 240})


CHARTED = """SELECT placed_at::DATE AS day, sum(price) AS revenue, count(*) AS orders
FROM shop.orders GROUP BY ALL ORDER BY day"""
SETTINGS = ("workers", "storage", "alerts", "tokens", "effective")


def take_tables(visitor: Visitor, kind: str, folder: Path, only: Sequence[str] = ()) -> None:
    """The pictures of tables, SQL, audit and settings."""
    pages = {
        "tables": "/tables", "table": "/table?namespace=shop&name=orders", "erasures": "/erasures", "sql": "/sql",
        "audit": "/audit", "settings": "/settings", **{f"settings-{n}": f"/settings/{n}" for n in SETTINGS},
    }  # fmt: skip
    for name, path in pages.items():
        if only and name not in only:
            continue
        page = visitor.open(path)
        if name == "sql":
            page.get_by_label("Statements").fill(CHARTED)
            page.get_by_role("button", name="Run", exact=True).click()
            page.get_by_role("button", name="Chart").click()
            page.get_by_text("revenue, orders by day").wait_for()
            page.get_by_label("Statements").press("Control+Home")  # a narrow one shows its begin
        page.wait_for_timeout(500)  # for what is drawn: nobody asserts on it
        page.screenshot(path=folder / f"{name}-{kind}.png")


@contextmanager
def sampling(console: Console) -> Iterator[None]:
    """An hour's samples in a minute."""
    stop = threading.Event()

    def take_some() -> None:
        while not stop.wait(0.1):
            console.samples.take()

    thread = threading.Thread(target=take_some)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def outage(tank: Surgetank, server: PostgresServer) -> None:
    """The database goes, and somebody works on."""
    server.kill()
    put(tank.checkpointer(), "refund-4821", {"step": 2}, user_id="ada")
    wait_until(
        lambda: any(i.severity == "critical" for i in tank.incidents() if i.is_of_sink),
        "a red banner",
    )


def take(make: Callable[[str], Visitor], pages: dict[str, str]) -> None:
    """The pictures of these pages."""
    wanted = sys.argv[1:] or list(pages)
    for kind in SIZES:
        visitor = make(kind)
        for name, path in pages.items():
            if name not in wanted:
                continue
            page = visitor.open(path)
            page.wait_for_timeout(900)  # for charts and banners: nobody asserts on it
            if part := path.partition("#")[2]:
                page.evaluate("id => document.getElementById(id).scrollIntoView()", part)
            page.screenshot(path=FOLDER / f"{name}-{kind}.png")


def main() -> None:
    """Take them all."""
    program = find_chromium()
    assert program is not None, "apt-get install chromium"
    FOLDER.mkdir(parents=True, exist_ok=True)
    home, template = tempfile.mkdtemp(prefix="surgetank-"), make_template()
    begun = time.time()  # what was taken before is small already
    with running_server(template.path) as postgres, running_browser(program) as browser:
        settings: dict[str, Any] = {
            "home": home, "database_url": postgres.url, "flush_age": 0.2, "critical_after": 2.0, "retry_max": 1.0,
            "breaker_max": 1.0, "connect_timeout": 1.0, "support_url": "https://support.example.com/",
            "admin_token": ADMIN_TOKEN, "node": "server-1",
        }  # fmt: skip
        consoles: list[Console] = []

        def made(services: Services) -> Console:
            consoles.append(Console(services))
            return consoles[-1]

        with (
            Surgetank(**settings) as tank,
            working(tank, "approve_refund"),
            agents(tank, Path(home) / "project") as graphs,
            running(tank, graphs=graphs, mounts=[made]) as server,
            sampling(consoles[0]),
        ):
            remember(tank)
            fill(tank)
            fill_tables(tank, server)
            done = ask(tank, "onboarding-ben", "Shall I order the laptop?", owner="ben")
            tank.approvals.resolve(done.checkpoint_id, "approve", actor="ada", notes="As agreed.")
            decided = decide_some(tank)
            asked = ask(tank, "refund-4821", MAIL)
            order = _talk(server)
            ask(
                tank,
                "travel-oslo",
                {
                    "question": "The hotel costs 20 EUR more than allowed. Book it?",
                    "surgetank": {"expires_in": 2400, "role": "reviewer"},
                },
                owner="eve",
            )
            outage(tank, postgres)
            for _ in range(12):
                put(tank.checkpointer(), "weekly-report", {"step": 9}, user_id="ada")
            postgres.start()
            wait_until(lambda: not [i for i in tank.incidents() if i.is_of_sink], "its end", 60)
            tank.flush()
            failed = next(job for job in tank.jobs() if not job.ok)
            error = next(e for e in tank.errors.find().errors if e.error_type == "payment_timeout")
            opened: dict[str, Any] = {}
            visitors: dict[str, Visitor] = {}

            def make(kind: str) -> Visitor:
                if kind not in opened:
                    width, height = SIZES[kind]
                    scheme: Any = "dark" if kind == "dark" else "light"
                    opened[kind] = visiting(
                        browser, server, viewport={"width": width, "height": height},
                        color_scheme=scheme, device_scale_factor=1,
                    )  # fmt: skip
                    visitors[kind] = opened[kind].__enter__()
                    visitors[kind].log_in()
                return visitors[kind]

            take(make, {"overview": "/overview"})
            park(tank)
            take(make, {
                "threads": "/threads", "thread": "/thread?id=refund-4821",
                "thread-steps": f"/thread?id={ORDER}#steps", "run": f"/thread?id={ORDER}&run={order}",
                "checkpoint": f"/thread/checkpoint?id={ORDER}&at={_state_of(tank)}",
                "start": f"/thread/start?id={ORDER}",
                "inbox": "/inbox", "question": f"/inbox/{asked.checkpoint_id}",
                "decided": f"/inbox/{decided}", "inbox-statistics": "/inbox/statistics",
                "jobs": "/jobs", "jobs-health": "/jobs/health?hours=1",
                "job": f"/jobs/{failed.id}", "parked": "/parked",
                "parked-entry": f"/parked/{tank.parked()[0].id}", "errors": "/errors?state=all",
                "error": f"/errors/{error.id}", "errors-statistics": "/errors/statistics",
            })  # fmt: skip
            for kind in SIZES:
                take_tables(make(kind), kind, FOLDER, sys.argv[1:])
            outage(tank, postgres)
            take(make, {"outage-overview": "/overview", "outage-thread": "/thread?id=refund-4821"})
            for kind in SIZES:
                opened[kind].__exit__(None, None, None)
            with visiting(browser, server, viewport={"width": 1240, "height": 860}) as guest:
                guest.open("/login").screenshot(path=FOLDER / "login-light.png")
            postgres.start()
    template.close()
    if quantize := shutil.which("pngquant"):  # a third of the bytes, and nobody sees it
        files = [str(path) for path in FOLDER.glob("*.png") if path.stat().st_mtime > begun]
        subprocess.run(
            [quantize, "--force", "--ext", ".png", "--quality", "85-100", *files], check=False
        )
    print(f"{len(list(FOLDER.glob('*.png')))} pictures in {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
