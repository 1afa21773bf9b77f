// Figures and values in few characters.

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count < 10 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export const rate = (count) => `${bytes(count)}/s`;

export function number(count) {
  if (count === null || count === undefined) return "–";
  if (count >= 10_000_000) return `${(count / 1_000_000).toFixed(0)}M`;
  if (count >= 100_000) return `${(count / 1_000).toFixed(0)}k`;
  return Number.isInteger(count) ? String(count) : count.toFixed(count < 10 ? 1 : 0);
}

export function duration(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export const time = (ms) => (ms ? new Date(ms).toLocaleString() : "");

export function stamp(at) {
  if (!at) return "";
  return `${new Date(at.at).toLocaleString(undefined, { hour12: false })}.${String(at.at % 1_000).padStart(3, "0")}`;
}

export const short = (id) => (id && id.length > 13 ? `${id.slice(0, 8)}…${id.slice(-4)}` : id ?? "");

/** The name of a field: sealed ones have names that say nothing to this node. */
export const fieldName = (name, sealed) => (sealed ? `sealed field ${name.replace(/^\$s\./, "").slice(0, 6)}…` : name);

/** A field's value: its text, and its type where that is not plain. */
export function value(json) {
  if (json === null) return { text: "null", type: "null" };
  if (typeof json !== "object") return { text: String(json), type: typeof json === "string" ? "" : typeof json };
  if (Array.isArray(json)) return { text: JSON.stringify(json), type: "array" };
  const [[key, inner] = []] = Object.entries(json);
  if (key?.startsWith("$") && Object.keys(json).length === 1) {
    const type = key.slice(1);
    return { text: typeof inner === "object" ? JSON.stringify(inner) : String(inner), type };
  }
  return { text: JSON.stringify(json), type: "map" };
}

/** What people call a node. */
export const called = (node) => node?.name || node?.address || short(node?.id);

export const isUp = (state) => state === "idle" || state === "syncing";
