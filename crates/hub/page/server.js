// Requests to the node that serves this page, and nobody else.

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the node answers ${status}`);
    this.status = status;
    this.code = error?.code ?? "failed";
    this.hint = error?.hint ?? "";
    // The node does not know this address: its version does not have that yet.
    this.missing = status === 404 && this.message.startsWith("nothing at ");
  }
}

let onLoginNeeded = () => {};
export const whenLoginNeeded = (call) => { onLoginNeeded = call; };

async function answered(response) {
  const text = await response.text();
  if (response.ok) return text;
  let error;
  try { error = JSON.parse(text).error; } catch { error = undefined; }
  if (response.status === 401 && !response.url.endsWith("/login")) onLoginNeeded();
  throw new Refused(response.status, error);
}

async function ask(method, path, body) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try { response = await fetch(path, options); } catch { throw new Refused(0, { message: "the node does not answer" }); }
  return answered(response);
}

const parsed = (text) => (text === "" ? null : JSON.parse(text));

export const get = async (path) => parsed(await ask("GET", path));
export const send = async (method, path, body) => parsed(await ask(method, path, body));
/** Answers of one JSON object a line. */
export const lines = async (path) =>
  (await ask("GET", path)).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));

export const path = (...parts) => `/v1/${parts.map(encodeURIComponent).join("/")}`;
