// Building what is shown. Text only ever becomes text: there is no way to markup from here.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "class") node.setAttribute("class", value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** An element: el("button", { class: "small", on: { click } }, "Text", element, ...). */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An element of a drawing. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Puts children in the place of those that a node has. */
export function put(node, ...children) {
  node.replaceChildren();
  return fill(node, {}, children);
}

/** Sets a text if it is another one. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A table; each cell is a text, an element, or { content, class }. Of class "stack", its rows stand one cell below the other where there is little room. */
export function table(head, rows, options = {}) {
  const cell = (tag, value) => {
    const plain = value instanceof Node || typeof value !== "object" || value === null;
    const { content, ...properties } = plain ? { content: value ?? "" } : value;
    return el(tag, properties, content ?? "");
  };
  const named = (td, column) => {
    if (typeof head[column] === "string" && head[column] !== "") td.dataset.name = head[column];
    return td;
  };
  const line = (row) => el("tr", row.properties ?? {}, (row.cells ?? row).map((value, column) => named(cell("td", value), column)));
  return el("div", { class: "table" }, el("table", options,
    el("thead", {}, el("tr", {}, head.map((value) => cell("th", value)))),
    el("tbody", {}, rows.map(line))));
}

/** A list of facts; pairs whose value is empty are left out. */
export function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return el("dl", { class: "facts" }, told.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/** A state in a word, with its mark. */
export function badge(state) {
  return el("span", { class: `badge ${String(state).replace(/[^a-z_]/g, "")}` }, String(state).replace(/_/g, " "));
}
