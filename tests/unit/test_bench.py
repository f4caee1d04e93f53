"""The bench's own arithmetic: medians, ratios, verdicts, and the page that is written from them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from bench import plot, queueing, report
from bench.__main__ import PAGE, arguments, checked, scale_of
from bench.agent_servers import LANGGRAPH_DEV
from bench.bars import BARS, Bar, judge, unjudged
from bench.chat import Thread, growing, messages, text
from bench.console import longest_tasks
from bench.harness import SMOKE, BenchError, Figure, Recorder, Scale, Scene
from bench.measures import MEASURES, calls, graph
from bench.measures.tables_flush import DELTA
from bench.peers import MEMORY, OURS, POSTGRES, Contestant, contestants
from bench.result import Result, cell, number


def recorded(measure: str, key: str, **rounds: list[list[float]]) -> list[Figure]:
    recorder = Recorder(measure)
    names = {"ours": OURS, "memory": MEMORY, "postgres": POSTGRES, "langgraph_dev": LANGGRAPH_DEV}
    for who, values in rounds.items():
        for index, samples in enumerate(values, start=1):
            recorder.add(index, names[who], key, samples)
    return recorder.figures()


def result_of(figures: list[Figure]) -> Result:
    machine = {
        "processor": "a processor", "cores": 2, "memory_gb": 8, "system": "Linux 6", "python": "3.11.7",
        "file_system": "ext4", "fdatasync_us": 200, "load_at_start": 0.1, "packages": {"orjson": "3"},
    }  # fmt: skip
    server = {"server_version": "18.4", "fsync": "on"}
    return Result("2026-11-21 09:00 UTC", 60.0, machine, server, {"rounds": 3}, tuple(figures))


def test_the_rehearsal_does_not_count():
    recorder = Recorder("calls")
    recorder.add(0, OURS, "put", [1000.0])
    recorder.add(1, OURS, "put", [1.0, 3.0])
    recorder.add(2, OURS, "put", [5.0])
    (figure,) = recorder.figures()
    assert (figure.p50, figure.rounds, figure.count) == (3.0, (2.0, 5.0), 3)


def test_a_percentile_needs_samples():
    (few,) = recorded("calls", "put", ours=[[float(n) for n in range(49)]])
    (enough,) = recorded("calls", "put", ours=[[float(n) for n in range(1, 101)]])
    assert few.p99 is None
    assert enough.p99 is not None
    assert 98.9 < enough.p99 <= 100


def test_each_round_begins_with_another_contestant(tmp_path):
    scene = Scene(Scale(rounds=3, rehearse=False), tmp_path, server=cast("Any", None))
    turns = list(scene.turns(["a", "b", "c"]))
    assert [who for _, who in turns[::3]] == ["a", "b", "c"]
    assert [sorted(who for n, who in turns if n == number) for number in (1, 2, 3)] == [
        ["a", "b", "c"]
    ] * 3


def test_a_ratio_is_taken_within_a_round_so_that_a_slow_round_changes_nothing():
    rounds = [[1.5], [15.0], [1.5]]
    figures = recorded("graph", "async", ours=rounds, memory=[[1.0], [10.0], [1.0]])
    (verdict,) = judge(figures)
    assert verdict.value == pytest.approx(1.5)
    assert verdict.met


@pytest.mark.parametrize(("ratio", "met"), [(1.5, True), (1.51, False)])
def test_the_bar_itself_is_met(ratio, met):
    (verdict,) = judge(recorded("graph", "async", ours=[[ratio]], memory=[[1.0]]))
    assert verdict.met is met


def test_a_bar_without_a_peer_is_about_the_figure():
    (verdict,) = judge(recorded("loop", "held", ours=[[20.5]]))
    assert (verdict.value, verdict.met, verdict.bar.text) == (20.5, False, "at most 20")


def test_more_is_better_where_the_bar_says_at_least():
    bar = Bar("threads", "accepted", POSTGRES, at_least=6)
    assert bar.met(6.0)
    assert not bar.met(5.9)


def test_a_bar_whose_peer_was_not_measured_is_not_judged():
    assert judge(recorded("calls", "put", ours=[[1.0]])) == []


def test_a_bar_that_nothing_measures_any_more_is_noticed():
    figures = recorded("calls", "get_tuple hot", ours=[[1.0]], memory=[[1.0]])
    left = [bar.key for bar in unjudged(figures, ["calls"], Scale())]
    assert left == ["put", "put_writes", "get_tuple newest", "get_tuple cold"]
    dev = {bar for bar in BARS if bar.peer == LANGGRAPH_DEV}
    optional = dev | {bar for bar in BARS if bar.peer == DELTA}  # where they are installed
    browser = {bar for bar in BARS if bar.measure in ("console", "console_tail")}
    optional |= browser
    assert set(unjudged([], MEASURES, Scale())) == set(BARS) - optional
    there = recorded("served", "run", langgraph_dev=[[1.0]])
    assert dev <= set(unjudged(there, MEASURES, Scale()))
    there = recorded("console", "usable", ours=[[1.0]])
    assert "memory" in {bar.key for bar in unjudged(there, ["console"], Scale())}
    assert "storage" not in {bar.measure for bar in unjudged([], MEASURES, SMOKE)}


def test_the_longest_task_is_that_of_the_busiest_page_by_processor_and_by_the_clock():
    named = [
        {"name": "thread_name", "pid": pid, "tid": 1, "args": {"name": "CrRendererMain"}}
        for pid in (1, 2)
    ]
    tasks = [
        {"name": "ThreadControllerImpl::RunTask", "pid": pid, "tid": tid, "tdur": cpu, "dur": clock}
        for pid, tid, cpu, clock in (
            (1, 1, 2000, 3000), (2, 1, 21000, 22000), (2, 1, 4000, 250000), (2, 2, 99000, 99000),
        )
    ]  # fmt: skip
    trace = json.dumps({"traceEvents": [*named, *tasks]}).encode()
    assert longest_tasks(trace) == (21.0, 250.0)
    with pytest.raises(BenchError, match="no tasks"):
        longest_tasks(json.dumps({"traceEvents": named}).encode())


def test_a_result_comes_back_from_its_file(tmp_path):
    result = result_of(recorded("graph", "async", ours=[[1.0], [3.0]], memory=[[1.0], [1.0]]))
    result.write(tmp_path / "results/latest.json")
    assert Result.read(tmp_path / "results/latest.json") == result
    told = json.loads((tmp_path / "results/latest.json").read_text())
    assert told["bars"][0]["value"] == 2
    assert told["bars"][0]["met"] is False


def test_the_page_keeps_its_words_and_gets_the_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Words\n\n{report.BEGIN}\nof yesterday\n{report.END}\n\nafter\n")
    result = result_of(recorded("graph", "async", ours=[[2.0]], memory=[[1.0]]))
    report.rewrite(page, result)
    report.rewrite(page, result)
    text_ = page.read_text()
    assert text_.startswith("# Words\n")
    assert text_.endswith("after\n")
    assert "yesterday" not in text_
    assert (
        text_.count(
            "| A real graph: async, ms | 2 | 1 | 2 | at most 1.5 x InMemorySaver | missed |"
        )
        == 1
    )
    assert "- async, ms: InMemorySaver 1 (2.0 x); Surgetank 2." in text_


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Words\n")
    with pytest.raises(BenchError, match="markers"):
        report.rewrite(page, result_of([]))
    assert page.read_text() == "# Words\n"


def test_the_documented_page_has_its_markers():
    text_ = PAGE.read_text()
    assert report.BEGIN in text_
    assert report.END in text_


def test_a_plot_is_made_of_any_part_of_a_result():
    figures = recorded("calls", "put", ours=[[2.0]], memory=[[1.0]])
    figures += recorded("storage", "plain 50", ours=[[1.0]], memory=[[2.0]])
    figures += recorded("storage", "plain 100", ours=[[1.5]], memory=[[8.0]])
    for some in ([], figures[:2], figures[2:], figures):
        drawn = plot.svg(result_of(some))
        assert drawn.startswith("<svg")
        assert drawn.rstrip().endswith("</svg>")
    assert "8 MB" in drawn
    assert "2 x" in drawn


@pytest.mark.parametrize(
    "given",
    [
        ["--docs", "--smoke"],
        ["--docs", "--only", "calls"],
        ["--from", "nowhere.json"],
        ["--rounds", "0"],
    ],
)
def test_options_that_make_no_sense_are_refused(given, capsys):
    with pytest.raises(SystemExit) as ended:
        checked(arguments(), given)
    assert ended.value.code == 2
    assert given[0].removeprefix("--") in capsys.readouterr().err


class Forgetful(InMemorySaver):
    """A saver that is fast because it leaves something out."""

    def get_tuple(self, config):
        found = super().get_tuple(config)
        if found is not None:
            del found.checkpoint["channel_values"]["messages"][:1]
        return found


def test_a_saver_that_gives_back_something_else_is_not_measured():
    forgetful = Contestant("Forgetful", Forgetful(), lambda: 0)
    course = calls._Course(forgetful, Thread(forgetful.saver, "t"))
    (state,) = growing(1, seed=1)
    with pytest.raises(BenchError, match="another state"):
        calls._write(course, 0, state)
    graph_ = graph.build(messages(2, seed=1))
    with pytest.raises(BenchError, match="lost steps"):
        graph._play(graph_, forgetful, 2, "sync")


def test_a_page_is_made_of_several_runs_of_each_measure_the_newest(tmp_path):
    first = result_of(
        [*recorded("graph", "async", ours=[[1.0]]), *recorded("calls", "put", ours=[[1.0]])]
    )
    second = replace(
        result_of(
            [*recorded("graph", "async", ours=[[9.0]]), *recorded("queue", "x", ours=[[2.0]])]
        ),
        date="2026-11-28 18:00 UTC",
    )
    result = Result.joined([first, second])
    found = [(figure.measure, figure.p50) for figure in result.figures]
    assert found == [("calls", 1.0), ("graph", 9.0), ("queue", 2.0)]
    text_ = report.markdown(result)
    assert text_.count("Measured 2026-11-28 18:00 UTC, load 0.1.") == 2
    assert "Measured 2026-11-21 09:00 UTC" in text_
    result.write(tmp_path / "joined.json")
    assert Result.read(tmp_path / "joined.json") == result


def test_options_change_the_scale():
    options = arguments().parse_args(["--rounds", "9", "--memory-mb", "1024"])
    assert scale_of(options) == Scale(rounds=9, memory_mb=1024)
    assert scale_of(arguments().parse_args(["--smoke"])) == SMOKE


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0123456, "0.0123"), (1.0, "1"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_a_cell_without_a_figure_is_empty():
    assert cell(None) == ""


def test_the_text_is_the_same_for_the_same_seed_and_of_the_asked_length():
    import random

    assert text(random.Random(1)) == text(random.Random(1))
    assert {len(text(random.Random(n), 600)) for n in range(20)} == {600}


def test_a_thread_is_put_as_langgraph_would(tmp_path):
    with contestants(Scene(SMOKE, tmp_path, server=cast("Any", None)), (MEMORY,)) as (memory,):
        thread = Thread(memory.saver, "t")
        for step, state in enumerate(growing(3, seed=1)):
            thread.put({"messages": state, "step": step})
        history = list(memory.saver.list({"configurable": {"thread_id": "t"}}))
        assert [len(found.checkpoint["channel_values"]["messages"]) for found in history] == [
            6,
            4,
            2,
        ]
        assert history[0].parent_config == history[1].config
        assert [len(found.pending_writes) for found in history] == [1, 1, 1]
        assert memory.stored() > 0


def test_load_makes_batches_larger_before_it_makes_the_lag_longer() -> None:
    idle, busy, beyond = (queueing.simulate(rate, 1) for rate in (500, 5000, 12_000))
    assert idle.mean_batch < busy.mean_batch < beyond.mean_batch
    assert busy.p99_s < 1.0 < beyond.p99_s, "one worker takes fewer than 12,000 a second"
