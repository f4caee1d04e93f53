// Follows one run, printing a line for each event; the server is killed and comes back meanwhile.
import { newClient } from "./support.mjs";

const client = newClient(10);
const { thread_id: id } = await client.threads.create();
const stream = client.runs.stream(id, "agent", {
  input: { seconds: 0.1, events: 60 }, streamMode: "custom", streamResumable: true, onDisconnect: "continue",
});
for await (const part of stream) console.log(JSON.stringify(part));
console.log(JSON.stringify({ event: "over" }));
