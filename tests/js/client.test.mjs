// @langchain/langgraph-sdk under Node on a real server.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { collect, newClient, until } from "./support.mjs";

const client = newClient();
const thread = async () => (await client.threads.create()).thread_id;
const values = (parts) => parts.filter((part) => part.event === "values").map((part) => part.data);
const asking = async (id, ask) => client.runs.wait(id, "agent", { input: { ask } });
const resumed = async (id, resume) => client.runs.wait(id, "agent", { command: { resume } });

test("assistants: read, made, changed, set back, deleted", async () => {
  const [own] = await client.assistants.search({ graphId: "agent", metadata: { created_by: "system" } });
  assert.equal(own.graph_id, "agent");
  assert.ok((await client.assistants.getGraph("agent")).nodes.length > 3);
  assert.ok((await client.assistants.getSchemas("agent")).state_schema);
  const made = await client.assistants.create({ graphId: "agent", name: "Clerk", config: { tags: ["a"] } });
  const changed = await client.assistants.update(made.assistant_id, { name: "Scribe" });
  assert.deepEqual([changed.version, changed.name], [2, "Scribe"]);
  assert.equal((await client.assistants.getVersions(made.assistant_id)).length, 2);
  assert.equal((await client.assistants.setLatest(made.assistant_id, 1)).name, "Clerk");
  await client.assistants.delete(made.assistant_id);
  await assert.rejects(client.assistants.get(made.assistant_id), /404/);
});

test("threads: made, found, changed, copied, deleted", async () => {
  const mark = randomUUID();
  const made = await client.threads.create({ metadata: { mark } });
  await client.runs.wait(made.thread_id, "agent", { input: {} });
  const [found] = await client.threads.search({ metadata: { mark } });
  assert.equal(found.thread_id, made.thread_id);
  assert.equal((await client.threads.update(made.thread_id, { metadata: { more: 1 } })).metadata.more, 1);
  const copy = await client.threads.copy(made.thread_id);
  assert.deepEqual((await client.threads.getState(copy.thread_id)).values.said, ["first"]);
  await client.threads.delete(made.thread_id);
  await assert.rejects(client.threads.get(made.thread_id), /404/);
});

for (const mode of ["values", "updates", "messages", "messages-tuple", "custom", "debug", "tasks", "checkpoints", "events"]) {
  test(`streams in the mode ${mode}`, async () => {
    const parts = await collect(client.runs.stream(await thread(), "agent", { input: {}, streamMode: mode }));
    const names = new Set(parts.map((part) => part.event));
    assert.ok(names.has("metadata"));
    const expected = { messages: "messages/partial", "messages-tuple": "messages" }[mode] ?? mode;
    assert.ok(names.has(expected), `${expected} is not among ${[...names]}`);
    if (mode === "messages") {
      const last = parts.filter((part) => part.event === "messages/partial").at(-1);
      assert.equal(last.data[0].content, "hello there friend");
    }
    if (mode === "custom") assert.deepEqual(parts.find((p) => p.event === "custom").data, { number: 0 });
  });
}

test("streams several modes with the graphs within", async () => {
  const parts = await collect(
    client.runs.stream(await thread(), "agent", { input: {}, streamMode: ["updates", "custom"], streamSubgraphs: true }),
  );
  assert.ok(parts.some((part) => part.event.startsWith("custom|inner:")));
  assert.ok(parts.some((part) => part.event.startsWith("updates|inner:")));
});

test("runs without a thread, in batches, listed, joined", async () => {
  assert.deepEqual((await client.runs.wait(null, "agent", { input: {} })).said, ["first"]);
  assert.equal((await client.runs.createBatch([{ assistantId: "agent", input: {} }])).length, 1);
  const id = await thread();
  const run = await client.runs.create(id, "agent", { input: {}, metadata: { k: "v" } });
  const joined = await client.runs.join(id, run.run_id);
  assert.deepEqual(joined.said, ["first"]);
  const [listed] = await client.runs.list(id);
  assert.deepEqual([listed.run_id, listed.status, listed.metadata.k], [run.run_id, "success", "v"]);
  const replay = await collect(client.runs.joinStream(id, run.run_id, { lastEventId: "-1" }));
  assert.ok(values(replay).length > 2);
  await client.runs.delete(id, run.run_id);
  await assert.rejects(client.runs.get(id, run.run_id), /404/);
});

test("a graph that raises ends its stream with what it raised", async () => {
  const parts = await collect(client.runs.stream(await thread(), "failing", { input: {} }));
  const error = parts.find((part) => part.event === "error");
  assert.deepEqual([error.data.error, error.data.message], ["ValueError", "the plan is broken"]);
  await assert.rejects(client.runs.wait(await thread(), "failing", { input: {} }), /the plan is broken/);
});

const request = { action_requests: [{ name: "send", args: { to: "a" } }], review_configs: [{ action_name: "send", allowed_decisions: ["approve", "edit", "reject"] }] };
const tool = { type: "tool_approval", tool_call_id: "1", name: "send", args: { to: "a" }, description: "" };
const inbox = { action_request: { action: "send", args: { to: "a" } }, config: { allow_ignore: true, allow_respond: true, allow_edit: true, allow_accept: true } };
const questions = {
  "a batch of requests": [request, { decisions: [{ type: "approve" }] }],
  "a batch, in camel case": [request, { decisions: [{ type: "edit", editedAction: { name: "send", args: { to: "b" } } }] }],
  "one approval of a tool": [tool, { type: "approve" }],
  "an inbox's question": [[inbox], [{ type: "accept", args: null }]],
  "any value": ["really?", { yes: true }],
};
for (const [name, [ask, answer]] of Object.entries(questions)) {
  test(`asks and is answered: ${name}`, async () => {
    const id = await thread();
    const asked = await asking(id, ask);
    assert.deepEqual(asked.__interrupt__[0].value, ask);
    const waiting = await client.threads.get(id);
    assert.equal(waiting.status, "interrupted");
    const [interrupt] = Object.values(waiting.interrupts).flat();
    assert.deepEqual(interrupt.value, ask);
    const after = await resumed(id, { [interrupt.id]: answer });
    const got = after.said.at(-1);
    if (name.includes("camel")) assert.equal(got.decisions[0].edited_action.args.to, "b");
    else assert.deepEqual(got, answer);
    assert.equal((await client.threads.get(id)).status, "idle");
  });
}

test("a decision that is not offered is refused, and the question stays", async () => {
  const id = await thread();
  await asking(id, { ...request, review_configs: [{ action_name: "send", allowed_decisions: ["approve"] }] });
  await assert.rejects(resumed(id, { decisions: [{ type: "reject" }] }), /422/);
  assert.equal((await client.threads.get(id)).status, "interrupted");
});

test("a run is cancelled, and rolled back", async () => {
  const id = await thread();
  const slow = { input: { seconds: 0.2, events: 500 } };
  const run = await client.runs.create(id, "agent", slow);
  await until(async () => (await client.runs.get(id, run.run_id)).status === "running", "it runs");
  await client.runs.cancel(id, run.run_id, true);
  assert.equal((await client.runs.get(id, run.run_id)).status, "interrupted");
  const other = await client.runs.create(id, "agent", slow);
  await until(async () => (await client.runs.get(id, other.run_id)).status === "running", "the other runs");
  await client.runs.cancel(id, other.run_id, true, "rollback");
  await assert.rejects(client.runs.get(id, other.run_id), /404/);
});

test("goes back in time and on from there", async () => {
  const id = await thread();
  await client.runs.wait(id, "agent", { input: { said: ["one"] } });
  const history = await client.threads.getHistory(id, { limit: 20 });
  const past = history.find((state) => state.next.includes("talk"));
  assert.deepEqual(past.values.said, ["one", "first"]);
  const again = await client.runs.wait(id, "agent", { input: null, checkpointId: past.checkpoint.checkpoint_id });
  assert.equal(again.messages.length, 1);
  await client.threads.updateState(id, { values: { said: ["by hand"] }, asNode: "ask" });
  assert.equal((await client.threads.getState(id)).values.said.at(-1), "by hand");
  assert.equal((await client.threads.getState(id, past.checkpoint.checkpoint_id)).values.said.length, 2);
});

const slow = { input: { seconds: 0.1, events: 30 } };
const started = async (id) => {
  const run = await client.runs.create(id, "agent", slow);
  await until(async () => (await client.runs.get(id, run.run_id)).status === "running", "the first runs");
  return run.run_id;
};

test("of two runs of a thread: reject, enqueue", async () => {
  const id = await thread();
  const first = await started(id);
  await assert.rejects(client.runs.create(id, "agent", { input: {}, multitaskStrategy: "reject" }), /409/);
  const second = await client.runs.create(id, "agent", { input: {}, multitaskStrategy: "enqueue" });
  assert.equal((await client.runs.join(id, second.run_id)).said.length, 2);
  assert.equal((await client.runs.get(id, first)).status, "success");
});

test("of two runs of a thread: interrupt", async () => {
  const id = await thread();
  const first = await started(id);
  const second = await client.runs.create(id, "agent", { input: { events: 0 }, multitaskStrategy: "interrupt" });
  await client.runs.join(id, second.run_id);
  assert.equal((await client.runs.get(id, first)).status, "interrupted");
  assert.equal((await client.runs.get(id, second.run_id)).status, "success");
});

test("of two runs of a thread: rollback", async () => {
  const id = await thread();
  const first = await started(id);
  const second = await client.runs.create(id, "agent", { input: { events: 0 }, multitaskStrategy: "rollback" });
  assert.deepEqual((await client.runs.join(id, second.run_id)).said, ["first"]);
  await assert.rejects(client.runs.get(id, first), /404/);
});

test("the store and crons", async () => {
  await client.store.putItem(["notes", "ada"], "k", { text: "hi" });
  assert.deepEqual((await client.store.getItem(["notes", "ada"], "k")).value, { text: "hi" });
  assert.equal((await client.store.searchItems(["notes"], { filter: { text: "hi" } })).items.length, 1);
  assert.deepEqual((await client.store.listNamespaces({})).namespaces, [["notes", "ada"]]);
  await client.store.deleteItem(["notes", "ada"], "k");
  const cron = await client.crons.create("agent", { schedule: "0 8 * * *", input: {} });
  assert.equal((await client.crons.search({ assistantId: undefined })).length, 1);
  await client.crons.delete(cron.cron_id);
});
