// The hook `useStream` of @langchain/langgraph-sdk in jsdom, on a real server.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { JSDOM } from "jsdom";
import { newClient, recordingFetch, until, url } from "./support.mjs";

const dom = new JSDOM("<!doctype html><div id=root></div>", { url: "http://localhost:3000" });
const { window } = dom;
const { document, navigator, sessionStorage } = window;
for (const [name, value] of Object.entries({ window, document, navigator, sessionStorage })) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
globalThis.IS_REACT_ACT_ENVIRONMENT = false;
const React = (await import("react")).default;
const { createRoot } = await import("react-dom/client");
const { useStream } = await import("@langchain/langgraph-sdk/react");

const roots = [];
after(() => roots.forEach((root) => root.unmount()));

// A component that shows nothing; what the hook gives is in `seen.now`.
const mounted = (options = {}) => {
  const seen = { now: undefined, threadId: options.threadId ?? null, errors: [] };
  const Page = () => {
    seen.now = useStream({
      apiUrl: url,
      apiKey: process.env.TOKEN,
      assistantId: "agent",
      fetchStateHistory: { limit: 100 },
      callerOptions: { fetch: recordingFetch, maxRetries: 0 },
      onThreadId: (id) => (seen.threadId = id),
      onError: (error) => seen.errors.push(error),
      ...options,
    });
    return null;
  };
  const root = createRoot(dom.window.document.createElement("div"));
  root.render(React.createElement(Page));
  roots.push(root);
  seen.unmount = () => root.unmount();
  return seen;
};
const ready = (seen) => until(() => seen.now && !seen.now.isThreadLoading && !seen.now.isLoading, "the hook rests");
const ended = async (seen) => {
  await until(() => seen.now.isLoading, "it begins");
  await until(() => !seen.now.isLoading, "it ends");
};

test("submits, shows messages and values, and branches of the history", async () => {
  const seen = mounted();
  await ready(seen);
  seen.now.submit({ messages: [{ type: "human", content: "hi" }] });
  await ended(seen);
  await until(() => seen.now.messages.length === 2, "two messages");
  assert.deepEqual(seen.errors, []);
  assert.deepEqual(seen.now.messages.map((message) => message.type), ["human", "ai"]);
  assert.equal(seen.now.messages[1].content, "hello there friend");
  assert.deepEqual(seen.now.values.said, ["first"]);
  await until(() => seen.now.history.length > 3, "the history");
  const before = seen.now.getMessagesMetadata(seen.now.messages[0]);
  assert.ok(before.firstSeenState);
  seen.now.submit(
    { messages: [{ type: "human", content: "once more" }] },
    { checkpoint: before.firstSeenState.parent_checkpoint },
  );
  await ended(seen);
  await until(() => seen.now.messages[0]?.content === "once more", "the other branch");
  const branches = seen.now.getMessagesMetadata(seen.now.messages[0]).branchOptions;
  assert.equal(branches.length, 2);
});

test("is asked, and answers", async () => {
  const seen = mounted();
  await ready(seen);
  seen.now.submit({ ask: "really?" });
  await ended(seen);
  await until(() => seen.now.interrupt, "the question");
  assert.equal(seen.now.interrupt.value, "really?");
  seen.now.submit(undefined, { command: { resume: "yes" } });
  await ended(seen);
  await until(() => seen.now.values.said?.at(-1) === "yes", "the answer in the state");
  assert.equal(seen.now.interrupt, undefined);
});

test("stops a run", async () => {
  const seen = mounted();
  await ready(seen);
  seen.now.submit({ seconds: 0.1, events: 500 });
  await until(() => seen.threadId, "a thread");
  const client = newClient();
  const [run] = await until(async () => {
    const runs = await client.runs.list(seen.threadId);
    return runs.length && runs[0].status === "running" ? runs : undefined;
  }, "a run that runs");
  await seen.now.stop();
  await until(() => !seen.now.isLoading, "it ends");
  await until(async () => (await client.runs.get(seen.threadId, run.run_id)).status === "interrupted", "it is cancelled");
});

test("goes on with a run after the page was left", async () => {
  const seen = mounted({ reconnectOnMount: true });
  await ready(seen);
  seen.now.submit({ seconds: 0.1, events: 25 }, { onDisconnect: "continue", streamResumable: true });
  await until(() => seen.threadId && dom.window.sessionStorage.length > 0, "the run is remembered");
  seen.unmount();
  const again = mounted({ reconnectOnMount: true, threadId: seen.threadId });
  await until(() => again.now?.values.note === "inner", "what came meanwhile");
  await until(() => !again.now.isLoading, "it ends");
  assert.equal(again.now.messages.at(-1).content, "hello there friend");
  assert.deepEqual(again.errors, []);
});

test("switches between threads", async () => {
  const client = newClient();
  const ids = [];
  for (const said of [["a"], ["b"]]) {
    const { thread_id: id } = await client.threads.create();
    await client.runs.wait(id, "agent", { input: { said } });
    ids.push(id);
  }
  for (const [number, id] of ids.entries()) {
    const seen = mounted({ threadId: id });
    await until(() => seen.now?.values.said?.[0] === "ab"[number], "its own state");
  }
});
