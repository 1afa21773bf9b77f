// The page: views, what is selected, the stream of events, keys.

import { Apply } from "./apply.js";
import { Details } from "./details.js";
import { badge, el, say, svg, table } from "./dom.js";
import { bytes, called, duration, isUp, number, rate } from "./format.js";
import { Graph } from "./graph.js";
import { arrowOf } from "./links.js";
import { Model, nameOf, nodeOf } from "./model.js";
import { Problems } from "./problems.js";
import { Records } from "./records.js";
import { get, send, whenLoginNeeded } from "./server.js";

const $ = (id) => document.getElementById(id);
const model = new Model();
const actions = {
  select: (kind, id) => select(kind, id),
  browse: (database) => open("records", database),
  record: (database, id) => open("records", database, id),
  problems: (database) => open("problems", database),
};
const graph = new Graph($("graph"), model, actions.select);
const details = new Details($("details"), model, actions);
const views = {
  topology: { show: () => graph.resize() },
  records: new Records($("records"), model, actions),
  problems: new Problems($("problems"), model, actions),
  apply: new Apply($("apply")),
};
const selected = { kind: "", id: "" };
const narrow = matchMedia("(max-width: 720px)");
let events;
let paused = false;

// Views

function open(name, ...what) {
  for (const view of Object.keys(views)) $(view).hidden = view !== name;
  for (const tab of document.querySelectorAll(".tabs button")) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  views[name].show(...what);
}
for (const tab of document.querySelectorAll(".tabs button")) tab.addEventListener("click", () => open(tab.dataset.view));

function asList(list) {
  $("as-graph").setAttribute("aria-pressed", String(!list));
  $("as-list").setAttribute("aria-pressed", String(list));
  $("list").hidden = !list;
  for (const part of [$("graph"), document.querySelector(".zoom")]) part.hidden = list;
  if (list) fillList();
  else graph.resize();
}
$("as-graph").addEventListener("click", () => asList(false));
$("as-list").addEventListener("click", () => asList(true));

function fillList() {
  if ($("list").hidden) return;
  const name = (database) => `${called(model.nodes.get(nodeOf(database)))}/${nameOf(database)}`;
  // What needs a look comes first; what works keeps its place while it comes to rest and starts again.
  const urgency = (link) => ["refused", "offline", "connecting"].indexOf(link.state) >>> 0;
  const links = [...model.links.values()].filter((link) => wanted("link", link.id));
  links.sort((a, b) => urgency(a) - urgency(b) || (a.id < b.id ? -1 : 1));
  const right = (content) => ({ content, class: "right num" });
  const row = (link) => ({
    properties: { class: `pick ${link.id === selected.id ? "selected" : ""}`, tabindex: "0", "data-link": link.id, on: { click: () => select("link", link.id), keydown: (event) => event.key === "Enter" && select("link", link.id) } },
    cells: [name(link.client), arrowOf(link), name(link.server), badge(link.state), link.mode, link.pattern ?? "", right(number(link.figures.pending)), right(duration(link.figures.lag_ms)), right(rate(link.figures.bytes_sent_per_s)), right(rate(link.figures.bytes_received_per_s)), link.error?.message ?? link.notice ?? ""],
  });
  const top = $("list").scrollTop;
  const focused = document.activeElement?.getAttribute("data-link");
  $("list").replaceChildren(table(["Client", "Way", "Server", "State", "Mode", "Pattern", "Pending", "Lag", "Out", "In", "Note"], links.map(row), { class: "stack" }));
  $("list").scrollTop = top;
  if (focused) [...$("list").querySelectorAll("[data-link]")].find((line) => line.getAttribute("data-link") === focused)?.focus();
}

// What is selected and wanted

function select(kind, id) {
  Object.assign(selected, { kind, id });
  details.select(kind, id);
  graph.hideHint();
  if (kind && narrow.matches) graph.reveal(kind, id, $("details").getBoundingClientRect().top);
  mark();
  fillList();
}

function wanted(kind, id) {
  const only = $("only").value;
  const text = $("search").value.trim().toLowerCase();
  if (kind === "link") {
    const link = model.links.get(id);
    if (!link) return false;
    if (only && nameOf(link.client) !== only && nameOf(link.server) !== only) return false;
    return !text || [link.client, link.server].some((database) => wanted("node", nodeOf(database)) || nameOf(database).toLowerCase().includes(text));
  }
  if (kind === "database") {
    const name = nameOf(id);
    return (!only || name === only) && (!text || name.toLowerCase().includes(text) || matches(model.nodes.get(nodeOf(id)), text));
  }
  const own = graph.own?.get(id) ?? model.databasesOf(id);
  if (only && !own.some((database) => database.name === only)) return false;
  return !text || matches(model.nodes.get(id), text) || own.some((database) => database.name.toLowerCase().includes(text));
}

const matches = (node, text) => [node?.name, node?.id, node?.address].some((word) => word?.toLowerCase().includes(text));

function mark() {
  const all = !$("only").value && !$("search").value.trim();
  graph.setMarks(selected.id, all ? () => true : wanted);
}
for (const input of [$("search"), $("only")]) input.addEventListener("input", () => { mark(); fillList(); });
$("search").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const found = [...model.nodes.keys()].find((id) => wanted("node", id));
  if (found) {
    graph.show(found);
    select("node", found);
  }
});

// What the node tells

model.addEventListener("shape", () => {
  const node = model.nodes.get(model.this);
  say($("node-name"), called(node) ?? "");
  document.title = `${called(node) ?? "node"} – BlazeDB`;
  const names = model.names();
  if (names.join("\n") !== [...$("only").options].slice(1).map((option) => option.value).join("\n")) {
    const chosen = $("only").value;
    $("only").replaceChildren(el("option", { value: "" }, "All databases"), ...names.map((name) => el("option", { value: name }, name)));
    $("only").value = names.includes(chosen) ? chosen : "";
  }
  graph.reshape();
  details.rebuild();
  summarize();
  fillList();
});
model.addEventListener("figures", () => {
  graph.refresh();
  details.update();
  summarize();
  fillList();
});

function summarize() {
  const links = [...model.links.values()];
  const up = links.filter((link) => isUp(link.state)).length;
  const flow = links.reduce((sum, { figures }) => sum + figures.bytes_sent_per_s + figures.bytes_received_per_s, 0);
  say($("summary"), `${model.nodes.size} ${model.nodes.size === 1 ? "node" : "nodes"} · ${up} of ${links.length} links up · ${bytes(flow)}/s`);
}

function tell(state, text) {
  $("live").setAttribute("class", `live ${state}`);
  say($("live"), text);
}

function connect() {
  events?.close();
  events = new EventSource("/v1/topology/events");
  events.addEventListener("snapshot", (event) => {
    tell("on", "Live");
    model.take(JSON.parse(event.data));
    if (!$("records").hidden) views.records.loadDatabases();
  });
  events.addEventListener("change", (event) => model.change(JSON.parse(event.data)));
  events.addEventListener("error", async () => {
    if (paused) return;
    tell("off", "Reconnecting");
    // The browser tries again by itself unless the node has answered with an error, such as a missing login.
    if (events.readyState !== EventSource.CLOSED) return;
    await get("/v1/whoami").catch(() => {});
    if (!$("login").open) setTimeout(() => !paused && connect(), 2_000);
  });
}

function pause(on) {
  paused = on;
  $("pause").setAttribute("aria-pressed", String(on));
  iconOf($("pause"), on ? "resume" : "pause", on ? "Resume" : "Pause", "p");
  if (on) {
    events?.close();
    tell("", "Paused");
  } else {
    tell("", "Connecting");
    connect();
  }
}
$("pause").addEventListener("click", () => pause(!paused));
setInterval(() => {
  if (paused || document.hidden) return;
  model.tick();
  details.update();
}, 1_000);

// Login

let asker = { kind: "admin", users: false };

/** The form; whoever is in already may leave it as it is. */
function askForToken(isIn) {
  if ($("login").open) return;
  say($("login-error"), "");
  for (const button of [$("logout"), $("login-close")]) button.hidden = !isIn;
  $("logout").hidden = !isIn || asker.kind !== "user";
  $("login").showModal();
}
whenLoginNeeded(() => askForToken(false));
$("account").addEventListener("click", () => askForToken(true));
$("login-close").addEventListener("click", () => $("login").close());
$("login").addEventListener("cancel", (event) => $("login-close").hidden && event.preventDefault());
$("logout").addEventListener("click", async () => {
  await send("POST", "/logout").catch(() => {});
  location.reload();
});

/** What is not for a user is not offered. */
async function whoAmI() {
  asker = await get("/v1/whoami").catch(() => asker);
  const isUser = asker.kind === "user";
  details.isUser = views.problems.isUser = isUser;
  document.querySelector("[data-view=apply]").hidden = isUser;
  $("account").hidden = !isUser && !asker.users;
  say($("account"), isUser ? asker.user.id : "admin");
  if (isUser) {
    const groups = [["teams", asker.user.teams], ["roles", asker.user.roles]].filter(([, all]) => all.length > 0);
    say($("login-who"), `You see what ${asker.user.id} may read${groups.map(([name, all]) => `, ${name} ${all.join(", ")}`).join("")}. Another token shows another view.`);
  }
}

async function logIn() {
  try {
    await send("POST", "/login", { token: $("token").value });
    // Nothing of what somebody else was shown stays.
    location.reload();
  } catch (error) {
    say($("login-error"), error.message);
  }
}
$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn();
});

// Icons

const ICONS = {
  pause: "M5.5 3.5v9M10.5 3.5v9",
  resume: "M5 3.2v9.6l8-4.8z",
  auto: "M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 0 1 0 11",
  light: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8 13 13M13 3l-1.2 1.2M4.2 11.8 3 13",
  dark: "M13.2 9.6A5.6 5.6 0 0 1 6.4 2.8a5.6 5.6 0 1 0 6.8 6.8z",
};

function iconOf(button, name, label, key) {
  const filled = name === "resume" || name === "dark";
  const half = name === "auto" ? svg("path", { d: "M8 2.5a5.5 5.5 0 0 0 0 11z", fill: "currentColor" }) : undefined;
  button.replaceChildren(svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[name], fill: filled ? "currentColor" : "none", stroke: "currentColor", "stroke-width": "1.6", "stroke-linecap": "round" }), half));
  button.setAttribute("aria-label", label);
  button.setAttribute("title", `${label} (${key})`);
}

// Theme

const themes = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
try { theme = themes.find((known) => known === localStorage.getItem("theme")) ?? "auto"; } catch { /* no storage: as the system says */ }
function paint() {
  const dark = theme === "dark" || (theme === "auto" && system.matches);
  document.documentElement.setAttribute("data-theme", dark ? "dark" : "light");
  iconOf($("theme"), theme, `Theme: ${theme}`, "d");
  graph.recolour();
}
function nextTheme() {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  try { localStorage.setItem("theme", theme); } catch { /* not remembered then */ }
  paint();
}
$("theme").addEventListener("click", nextTheme);
system.addEventListener("change", paint);

// Legend

const states = [["syncing", "syncing"], ["idle", "idle, caught up"], ["connecting", "connecting"], ["offline", "offline"], ["refused", "refused"]];
const dashes = { offline: "7 5", connecting: "2 4", refused: "9 4 2 4" };
const sample = (...parts) => svg("svg", { viewBox: "0 0 46 12", "aria-hidden": "true" }, parts);
const stroke = (state, width = 2) => svg("path", { d: "M2 6H44", stroke: `var(--${state})`, "stroke-width": width, "stroke-dasharray": dashes[state] });
$("legend").append(
  el("ul", {},
    states.map(([state, text]) => el("li", {}, sample(stroke(state)), text)),
    el("li", {}, sample(stroke("syncing"), svg("path", { d: "M44 6l-8-4v8z", fill: "var(--syncing)" })), "way of changes"),
    el("li", {}, sample(stroke("syncing", 5)), "thick: many bytes"),
    el("li", {}, svg("svg", { class: "lock", viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("path", { d: "M2 6h8v5H2zM3.5 6V4.5a2.5 2.5 0 0 1 5 0V6", fill: "none", stroke: "var(--text)" })), "sealed end to end")));
if (narrow.matches) $("legend").open = false;

// Keys

$("fit").addEventListener("click", () => graph.fit());
$("tidy").addEventListener("click", () => graph.tidy());
$("zoom-in").addEventListener("click", () => graph.zoom(1.25));
$("zoom-out").addEventListener("click", () => graph.zoom(0.8));
const told = [["/", "Search"], ["f", "Fit everything in sight"], ["t", "Lay out anew"], ["l", "Graph or list"], ["+ −", "Zoom"], ["← ↑ → ↓", "Pan; from a node to the next"], ["Tab", "To the nodes"], ["p", "Pause"], ["d", "Light or dark"], ["Esc", "Close"], ["?", "These keys"]];
$("keys").append(el("h2", {}, "Keys"), el("dl", {}, told.map(([key, what]) => [el("dt", {}, key.split(" ").map((one) => el("kbd", {}, one))), el("dd", {}, what)])),
  el("form", { method: "dialog" }, el("button", { type: "submit" }, "Close")));
const help = () => $("keys").showModal();
$("help").addEventListener("click", help);
const keys = {
  "?": help,
  d: nextTheme,
  "/": () => $("search").focus(),
  f: () => graph.fit(),
  t: () => graph.tidy(),
  l: () => asList($("list").hidden),
  p: () => pause(!paused),
  "+": () => graph.zoom(1.25),
  "=": () => graph.zoom(1.25),
  "-": () => graph.zoom(0.8),
  Escape: () => select("", ""),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("login").open || $("keys").open || $("topology").hidden) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

paint();
whoAmI();
iconOf($("pause"), "pause", "Pause", "p");
connect();
