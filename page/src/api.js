// Requests to the server that this page came from. A key is asked for once and kept for the session of this tab only.

const KEY = "ollmlx-key";
let asking = null;
let ask = () => Promise.resolve(null);

/** An answer that tells an error, in the server's words. */
export class ServerError extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.code = /^[A-Z]{3}\d{3}$/.test(body.code) ? body.code : "";
    this.hint = body.hint || "";
  }
}

/** Wait for the network. Browsers have words of their own for a server that is gone; here they are the same in all. */
async function reached(waiting, message, hint = "") {
  try {
    return await waiting;
  } catch (error) {
    if (error instanceof TypeError) throw new ServerError(0, { error: message, hint });
    throw error;
  }
}

/** Set the function that asks the person for a key; it resolves to null when the person gives none. */
export function onKeyNeeded(question) {
  ask = question;
}

export const storedKey = () => sessionStorage.getItem(KEY) || "";

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

/** Send a request and return the response. Asks for a key when the server wants one, and sends the request again. */
export async function send(path, { method, body, signal, id } = {}) {
  for (;;) {
    const used = storedKey();
    const headers = {};
    if (id) headers["X-Request-ID"] = id;
    if (used) headers.Authorization = `Bearer ${used}`;
    const form = body instanceof FormData;
    if (body !== undefined && !form) headers["Content-Type"] = "application/json";
    const response = await reached(fetch(path, {
      method: method || (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined || form ? body : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    }), "The server does not answer.", "Is it running? On its machine, ollmlx serve starts it.");
    if (response.ok) return response;
    const error = new ServerError(response.status, await problem(response));
    if (response.status !== 401 || error.code === "SEC001") throw error;
    if (storedKey() !== used) continue; // another request has got a new key meanwhile
    asking ??= ask(used !== "").finally(() => {
      asking = null;
    });
    const key = await asking;
    if (!key) throw error;
    sessionStorage.setItem(KEY, key);
  }
}

export async function json(path, options) {
  return (await send(path, options)).json();
}

/** Send a request and yield the records of its NDJSON answer. An error record is thrown. */
export async function* records(path, options) {
  const response = await send(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reached(reader.read(), "The connection to the server broke off.");
      const lines = (rest + (value || "")).split("\n");
      rest = done ? "" : lines.pop();
      for (const line of lines) {
        if (!line.trim()) continue;
        const record = JSON.parse(line);
        if (record.error) throw new ServerError(response.status, record);
        yield record;
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => undefined); // the connection may be gone already
  }
}

async function problem(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    const { error } = body;
    return typeof error === "string" ? body : { error: error?.message || text, code: error?.code };
  } catch {
    return { error: text };
  }
}
