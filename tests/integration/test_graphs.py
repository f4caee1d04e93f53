"""Graphs of a project, loaded as a server would: every form a file may give one in, and code that
misbehaves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import time
import traceback
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from support.projects import HEAD, MakeProject
from surgetank import SurgetankSaver
from surgetank.exceptions import GraphNotLoaded, UnknownName
from surgetank.workflows.graphs.config import assistant_id, load
from surgetank.workflows.graphs.graph_set import GraphSet
from surgetank.workflows.graphs.shape import drawing_of, nodes_of, schemas_of, structure_hash


def one(project: MakeProject, code: str, **options: Any) -> GraphSet:
    """A set of one graph, called "it"."""
    path = project({"probe_it.py": HEAD + textwrap.dedent(code)}, {"it": "./probe_it.py:graph"})
    return GraphSet(load(path), **options)


def properties(schema: dict[str, Any] | None) -> list[str]:
    assert schema is not None
    return list(schema["properties"])


async def refused(graphs: GraphSet, name: str = "it") -> GraphNotLoaded:
    with pytest.raises(GraphNotLoaded) as caught:
        await graphs.info(name)
    assert caught.value.remedy
    assert name in caught.value.what
    return caught.value


FORMS = {
    "graph": ("graph = builder_of('a').compile()", "graph"),
    "builder": ("graph = builder_of('a')", "builder"),
    "nothing": ("def graph(): return builder_of('a')", "function"),
    "config": ("def graph(config: RunnableConfig): return builder_of(config['configurable']['node'])", "function"),
    "unnamed": ("def graph(given): return builder_of(given['configurable']['node']).compile()", "function"),
    "runtime": (
        """from langgraph_sdk.runtime import ServerRuntime
async def graph(runtime: ServerRuntime):
    assert runtime.store is not None
    return builder_of('a' if runtime.execution_runtime else 'a')""",
        "async function",
    ),
    "both": (
        """async def graph(config: "RunnableConfig", runtime: "ServerRuntime", *, more=1):
    assert runtime.access_context
    return builder_of(config['configurable']['node']).compile()""",
        "async function",
    ),
    "async context manager": (
        "@asynccontextmanager\nasync def graph(config):\n    yield builder_of('a').compile()",
        "context manager",
    ),
    "async generator": ("async def graph():\n    yield builder_of('a')", "context manager"),
    "context manager": ("@contextmanager\ndef graph():\n    yield builder_of('a')", "context manager"),
    "callable object": (
        "class Maker:\n    def __call__(self, config): return builder_of('a')\ngraph = Maker()",
        "function",
    ),
    "functional": (
        """from langgraph.func import entrypoint
@entrypoint()
def graph(state: State) -> dict: return {'text': state['text'] + '!'}""",
        "graph",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_each_form_of_a_graph_is_opened_with_our_checkpointer(form, project, tank):
    code, kind = FORMS[form]
    store = InMemoryStore()
    graphs = one(project, code, checkpointer=tank.checkpointer(), store=store)
    given: Any = {"configurable": {"node": "a", "thread_id": f"t-{form}"}}
    async with graphs.open("it", given) as graph:
        assert isinstance(graph.checkpointer, SurgetankSaver)
        assert graph.store is store
        assert (await graph.ainvoke({"text": "hi"}, given))["text"] == "hi!"
        assert (await graph.aget_state(given)).values
    if form not in ("config", "both", "unnamed"):
        info = await graphs.info("it")
        assert (info.name, info.kind, info.assistant_id) == ("it", kind, assistant_id("it"))
        assert len(info.nodes) == 1
        assert info.notes == ()


async def test_a_context_manager_is_left_also_when_the_run_fails(project):
    graphs = one(
        project,
        """
        seen = []
        @asynccontextmanager
        async def graph(config):
            seen.append("in")
            try:
                yield builder_of("a")
            finally:
                seen.append("out")
        """,
    )
    with pytest.raises(KeyError):
        async with graphs.open("it"):
            raise KeyError("of the run")
    assert sys.modules["probe_it"].seen == ["in", "out"]


async def test_what_a_graph_brings_itself_is_replaced_and_said(project):
    graphs = one(
        project,
        """
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.store.memory import InMemoryStore
        graph = builder_of("a").compile(checkpointer=InMemorySaver(), store=InMemoryStore())
        none = builder_of("a").compile(checkpointer=False)
        """,
        checkpointer=InMemorySaver(),
        store=InMemoryStore(),
    )
    notes = " ".join((await graphs.info("it")).notes)
    assert "InMemorySaver" in notes
    assert "InMemoryStore" in notes
    assert sys.modules["probe_it"].graph.checkpointer is not graphs._checkpointer
    without = GraphSet(
        load(project({}, {"it": "./probe_it.py:none"})), checkpointer=InMemorySaver()
    )
    assert "checkpointer=False" in " ".join((await without.info("it")).notes)
    async with without.open("it") as graph:
        assert graph.checkpointer is False


async def test_the_runtime_says_whether_the_graph_will_run(project):
    graphs = one(
        project,
        """
        from langgraph_sdk.runtime import ServerRuntime
        seen = []
        def graph(runtime: ServerRuntime[str]):
            run = runtime.execution_runtime
            seen.append((runtime.access_context, run and run.context, runtime.user))
            return builder_of("a")
        """,
    )
    async with graphs.open("it", context="ctx", user="ada"):
        pass
    async with graphs.open("it", access="threads.read"):
        pass
    assert sys.modules["probe_it"].seen == [
        ("threads.create_run", "ctx", "ada"),
        ("threads.read", None, None),
    ]


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "why"),
        [
            ("import sys; sys.exit(3)", "ends the process"),
            ("graph = (", "'(' was never closed in line"),
            ("import no_such_package_here", "ModuleNotFoundError"),
            ("raise ValueError('bad setting')", "ValueError: bad setting"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            (
                "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
                "its text can't be made",
            ),
            ("other = 1", "has no 'graph'"),
            ("graph = {'nodes': []}", "dict, which is no graph"),
            ("graph = State", "the class State, which is no graph"),
            ("graph = StateGraph(State)", "entrypoint"),
            ("def graph(): return 7", "gives is int, which is no graph"),
            ("def graph(): raise LookupError('x')", "LookupError: x"),
            ("def graph(): raise SystemExit(1)", "ends the process"),
            ("async def graph(): raise SystemExit(1)", "ends the process"),
            ("async def graph(): raise TimeoutError('own')", "TimeoutError: own"),
            ("def graph(config, tools: list): return builder_of('a')", "wants 'tools'"),
            (
                "from langchain_core.runnables import RunnableLambda\ngraph = RunnableLambda(shout)",
                "RunnableLambda, which is no graph",
            ),
        ],
    )
    async def test_the_reason_is_said(self, project, code, why):
        error = await refused(one(project, code))
        assert why in error.why

    async def test_a_failed_import_says_its_last_frames(self, project):
        path = project(
            {"first.py": "import probe_second\n", "probe_second.py": "def f():\n    return 1 / 0\n\nf()\n"},
            {"it": "./first.py:graph"},
        )  # fmt: skip
        error = await refused(GraphSet(load(path)))
        assert error.frames == (
            "first.py:1 in <module>",
            "probe_second.py:4 in <module>",
            "probe_second.py:2 in f",
        )

    async def test_a_missing_file_and_a_huge_one_are_refused(self, project):
        path = project({}, {"it": "./missing.py:graph", "huge": "huge.py:graph"})
        with (path.parent / "huge.py").open("wb") as file:
            file.truncate(17 << 20)
        graphs = GraphSet(load(path))
        assert "does not exist" in (await refused(graphs)).why
        assert "bytes" in (await refused(graphs, "huge")).why

    async def test_code_that_blocks_is_refused_in_time_with_its_line(self, project):
        graphs = one(
            project,
            """
            import threading
            go_on = threading.Event()
            def wait():
                go_on.wait(50)
            wait()
            """,
            timeout_s=0.5,
        )
        error = await refused(graphs)
        assert "not done after 0.5 s" in error.why
        assert error.frames[-1].endswith("in wait")
        began = time.monotonic()
        again = [await refused(graphs) for _ in range(3)]
        assert time.monotonic() - began < 0.4  # nobody waits for it a second time
        assert [(each.why, each.frames) for each in again] == [(error.why, error.frames)] * 3
        assert len({len(traceback.extract_tb(each.__traceback__)) for each in again}) == 1
        sys.modules["probe_it"].go_on.set()

    async def test_a_function_that_never_gives_a_graph_is_refused_in_time(self, project):
        graphs = one(
            project,
            "import asyncio\nasync def graph(): await asyncio.sleep(50)",
            timeout_s=0.2,
        )
        assert "gave no graph within 0.2 s" in (await refused(graphs)).why

    async def test_a_failed_import_is_tried_again(self, project):
        graphs = one(project, "raise ValueError")
        await refused(graphs)
        (graphs.config.path.parent / "probe_it.py").write_text(
            HEAD + "graph = builder_of('a') # mended"
        )
        assert (await graphs.info("it")).nodes == ("a",)

    async def test_a_name_that_there_is_not_names_those_that_there_are(self, project):
        graphs = one(project, "graph = builder_of('a')")
        with pytest.raises(UnknownName, match="graphs: it"):
            await graphs.info("../it")

    async def test_secrets_of_the_environment_are_masked(self, project):
        path = project(
            {"probe_it.py": "import os\nraise ValueError('refused ' + os.environ['PROBE_KEY'])"},
            {"it": "./probe_it.py:graph"},
            env={"PROBE_KEY": "sk-very-secret"},
        )
        error = await refused(GraphSet(load(path)))
        assert error.why == "ValueError: refused ***"


class TestModules:
    async def test_files_of_one_name_in_two_folders_are_two_modules(self, project):
        path = project(
            {
                "a/graph.py": HEAD + "graph = builder_of('a')",
                "b/graph.py": HEAD + "graph = builder_of('b')",
                "c-d/graph.py": HEAD + "graph = builder_of('c')",
                "e-f/graph.py": HEAD + "graph = builder_of('e')",
            },
            {folder[0]: f"./{folder}/graph.py:graph" for folder in ("a", "b", "c-d", "e-f")},
            dependencies=[".", "./a", "./b"],
        )
        graphs = GraphSet(load(path))
        assert [(await graphs.info(name)).nodes for name in "abce"] == [
            ("a",),
            ("b",),
            ("c",),
            ("e",),
        ]

    @pytest.mark.parametrize("name", ["json", "sys"])
    async def test_a_file_whose_name_python_has_itself_is_loaded(self, project, name):
        before = sys.modules[name]
        path = project(
            {f"{name}.py": HEAD + "graph = builder_of('mine')"}, {"it": f"./{name}.py:graph"}
        )
        assert (await GraphSet(load(path)).info("it")).nodes == ("mine",)
        assert sys.modules[name] is before

    async def test_a_module_taken_from_another_folder_is_said(self, project):
        files = {
            "a/probe_helper.py": "node = 'of-a'",
            "b/probe_helper.py": "node = 'of-b'",
            "a/one.py": HEAD + "from probe_helper import node\ngraph = builder_of(node)",
            "b/two.py": HEAD + "from probe_helper import node\ngraph = builder_of(node)",
        }
        path = project(
            files, {"a": "a/one.py:graph", "b": "b/two.py:graph"}, dependencies=["./a", "./b"]
        )
        graphs = GraphSet(load(path))
        assert (await graphs.info("a")).notes == ()
        (note,) = (await graphs.info("b")).notes
        assert "probe_helper" in note

    async def test_a_package_with_relative_imports_is_one_module_for_all(self, project):
        path = project(
            {
                "probe_pack/__init__.py": "",
                "probe_pack/state.py": HEAD,
                "probe_pack/main.py": "from .state import builder_of, State\ngraph = builder_of('a')",
            },
            {"file": "./probe_pack/main.py:graph", "module": "probe_pack.main:graph"},
        )
        graphs = GraphSet(load(path))
        infos = [await graphs.info("file"), await graphs.info("module")]
        assert infos[0].structure_hash == infos[1].structure_hash
        assert sys.modules["probe_pack.main"].State is sys.modules["probe_pack.state"].State

    async def test_graphs_of_one_file_import_it_once_also_at_once(self, project):
        code = """
        import time
        import builtins
        builtins.probe_imports = getattr(builtins, "probe_imports", 0) + 1
        time.sleep(0.1)
        a, b = builder_of("a"), builder_of("b")
        """
        path = project(
            {"c-d/it.py": HEAD + textwrap.dedent(code)},
            {"a": "c-d/it.py:a", "b": "c-d/it.py:b"},
        )
        graphs = GraphSet(load(path))
        infos = await asyncio.gather(*(graphs.info(name) for name in "abab"))
        assert [info.nodes for info in infos] == [("a",), ("b",)] * 2
        import builtins

        assert builtins.probe_imports == 1  # type: ignore[attr-defined]

    async def test_the_environment_of_the_file_is_there_and_that_of_the_process_stays(
        self, project, monkeypatch
    ):
        monkeypatch.setenv("PROBE_B", "process")
        path = project(
            {
                "probe_it.py": HEAD
                + "import os\ngraph = builder_of(os.environ['PROBE_A'], os.environ['PROBE_B'])",
                ".env": "export PROBE_A='file'\nPROBE_B=file\n",
            },
            {"it": "./probe_it.py:graph"},
            env=".env",
        )
        assert (await GraphSet(load(path)).info("it")).nodes == ("file", "process")


class TestShape:
    async def graph(self, project, code: str) -> Any:
        async with one(project, code).open("it") as graph:
            return graph

    async def test_schemas_say_what_a_graph_takes_keeps_and_gives(self, project):
        graph = await self.graph(
            project,
            """
            class Wide(State):
                count: int
            class Context(TypedDict):
                user: str
            builder = StateGraph(Wide, input_schema=State, output_schema=State, context_schema=Context)
            builder.add_node("a", shout)
            builder.add_edge(START, "a")
            graph = builder
            """,
        )
        schemas = schemas_of(graph)
        assert properties(schemas["input_schema"]) == ["text"]
        assert properties(schemas["output_schema"]) == ["text"]
        assert properties(schemas["state_schema"]) == ["text", "count"]
        assert properties(schemas["context_schema"]) == ["user"]
        assert schemas["config_schema"] == schemas["context_schema"]

    async def test_what_a_graph_can_not_say_is_none(self, project):
        graph = await self.graph(
            project,
            """
            class Odd: pass
            class Strange(TypedDict):
                odd: Odd
            graph = builder_of("a", schema=Strange)
            """,
        )
        assert list(schemas_of(graph).values()) == [None] * 5
        assert drawing_of(graph) is not None
        graph.get_graph = None
        assert drawing_of(graph) is None
        assert len(structure_hash(graph)) == 32

    async def test_subgraphs_are_drawn_with_xray(self, project):
        graph = await self.graph(
            project,
            """
            outer = StateGraph(State)
            outer.add_node("inner", builder_of("x", "y").compile())
            outer.add_edge(START, "inner")
            graph = outer
            """,
        )
        plain, deep = drawing_of(graph), drawing_of(graph, xray=True)
        assert plain is not None
        assert deep is not None
        assert {node["id"] for node in plain["nodes"]} == {"__start__", "inner", "__end__"}
        assert {"inner:x", "inner:y"} <= {node["id"] for node in deep["nodes"]}
        assert nodes_of(graph) == ("inner",)

    async def test_the_hash_is_stable_and_changes_with_the_structure_alone(self, project):
        def hashed(names: str, text: str = "!") -> str:
            code = HEAD.replace('"!"', repr(text)) + f"graph = builder_of({names})"
            path = project({"probe_it.py": code}, {"it": "./probe_it.py:graph"})
            done = command(path, "--json")
            return str(json.loads(done.stdout)["graphs"][0]["structure_hash"])

        first = hashed("'a', 'b'")
        assert hashed("'a', 'b'", "??") == first
        assert hashed("'a', 'c'") != first


def command(path: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-m", "surgetank", "graphs", "--config", str(path), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


class TestCommand:
    def test_it_lists_each_graph_and_says_why_others_are_none(self, project):
        path = project(
            {
                "probe_it.py": "print('hello from the module')\n" + HEAD + "graph = builder_of('a', 'b')",
                "probe_bad.py": "import sys\nsys.exit(0)",
            },
            {
                "it": {"path": "probe_it.py:graph", "description": "first"},
                "bad": "probe_bad.py:graph", "web": "web.ts:graph",
            },
            dockerfile_lines=[],
        )  # fmt: skip
        done = command(path)
        assert done.returncode == 1
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("it ")]
        assert "builder" in line
        assert "a, b" in line
        assert str(assistant_id("it")) in line
        assert "dockerfile_lines" in done.stdout
        assert "hello" not in done.stdout
        assert "'bad' can't be loaded: its code ends the process" in done.stderr
        assert "'web' can't be loaded: 'web.ts:graph' is JavaScript" in done.stderr
        assert done.stderr.count("way out:") == 2
        assert "Traceback" not in done.stderr
        told = json.loads(command(path, "--json").stdout)
        assert [graph["description"] for graph in told["graphs"]] == ["first"]
        assert {graph["name"] for graph in told["refused"]} == {"web", "bad"}
        assert told["notes"]

    def test_all_is_well_with_zero_and_a_file_that_is_none_with_two(self, project):
        path = project(
            {"probe_it.py": HEAD + "graph = builder_of('a')"}, {"it": "probe_it.py:graph"}
        )
        assert command(path).returncode == 0
        missing = command(path.parent / "none.json")
        assert missing.returncode == 2
        assert "does not exist" in missing.stderr
