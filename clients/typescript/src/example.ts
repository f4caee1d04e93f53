// Checked with the generated file: a front end can tell events apart and knows every state.
import { type Status, type SurgetankEvent, WORKFLOW_TRANSITIONS } from "./index.js";

export function shown(event: SurgetankEvent): string {
  switch (event.type) {
    case "status_updated":
      return event.status === "completed" && event.saved !== true ? "saving" : event.status;
    case "checkpoint_ready":
    case "checkpoint_resolved":
      return `${event.kind ?? "question"}: ${event.status}`;
    case "checkpoint_flush_critical_error":
      return event.error_details?.reference ?? event.message;
    case "gap":
      return `missed up to ${event.missed_to}`;
    case "log":
      return `${event.level} ${event.message}`;
    case "checkpoint_flush_error":
    case "checkpoint_flush_recovered":
    case "graph_changed":
      return event.message;
  }
}

export function mayBecome(before: Status, after: Status): boolean {
  return WORKFLOW_TRANSITIONS[before].includes(after);
}
