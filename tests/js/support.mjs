// What the tests share: a client, threads, and a fetch that writes down every answer for pytest, which compares it with
// the OpenAPI document of the server.
import { appendFileSync } from "node:fs";
import { Client } from "@langchain/langgraph-sdk";

export const url = process.env.SURGETANK_URL;
const answers = process.env.ANSWERS_FILE;

export const recordingFetch = async (input, init) => {
  const response = await fetch(input, init);
  const type = response.headers.get("content-type") ?? "";
  if (answers && type.includes("json")) {
    const body = await response.clone().text();
    const method = init?.method ?? input.method ?? "GET";
    const line = { method, url: String(input.url ?? input), status: response.status, body };
    appendFileSync(answers, JSON.stringify(line) + "\n");
  }
  return response;
};

// Without retries a refusal is seen at once.
export const newClient = (maxRetries = 0) =>
  new Client({ apiUrl: url, apiKey: process.env.TOKEN, callerOptions: { fetch: recordingFetch, maxRetries } });

export const collect = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};

export const until = async (condition, what, seconds = 30) => {
  const limit = Date.now() + seconds * 1000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > limit) throw new Error(`waited in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
