// The HTTP interface. Errors carry the server's sentence and hint.
import { t } from "./i18n.js";

export class ApiError extends Error {
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint || "";
  }
}

async function read(answer) {
  if (answer.ok) return answer.json();
  let said = {};
  try {
    said = await answer.json();
  } catch {
    said = { error: `${answer.status} ${answer.statusText}` };
  }
  throw new ApiError(answer.status, said.error || said.detail || String(answer.status), said.hint);
}

function query(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== false);
  return new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
}

export const link = (path, values = {}) => `/api/${path}?${query(values)}`;

export const get = async (path, values = {}, signal) => read(await fetch(link(path, values), { signal }));

export const post = async (path, value, values = {}) =>
  read(
    await fetch(link(path, values), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(value ?? {}),
    }),
  );

/** Ask: a form with a file or a clip; returns a ticket. */
export async function ask(values) {
  const form = new FormData();
  for (const [name, value] of Object.entries(values)) if (value) form.append(name, value);
  form.append("wait", "no");
  return read(await fetch("/api/predict", { method: "POST", body: form }));
}

export const cancel = (ticket) => fetch(`/api/line/${ticket.id}`, { method: "DELETE" });

/** Watch a ticket until it has ended; `tell` gets every state. Returns the answer. */
export function watch(ticket, tell) {
  return new Promise((done, failed) => {
    const source = new EventSource(`/api/line/${ticket.id}/events`);
    source.onmessage = async (event) => {
      const state = JSON.parse(event.data);
      tell(state);
      if (!["done", "failed", "cancelled"].includes(state.state)) return;
      source.close();
      if (state.state === "cancelled") failed(new ApiError(0, "cancelled"));
      else if (state.state === "failed") failed(new ApiError(422, state.error, state.hint));
      else read(await fetch(`/api/line/${ticket.id}/answer`)).then(done, failed);
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) failed(new ApiError(0, t("lost.connection")));
    };
  });
}
