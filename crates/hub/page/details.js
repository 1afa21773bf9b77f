// The panel beside the graph: everything that is known of one node, database or link.

import { chart } from "./chart.js";
import { badge, el, facts, say, table } from "./dom.js";
import { bytes, called, duration, number, rate, short, stamp, time } from "./format.js";
import { arrowOf } from "./links.js";
import { nameOf, nodeOf } from "./model.js";
import { get, path } from "./server.js";

export class Details {
  constructor(root, model, actions) {
    this.root = root;
    this.model = model;
    this.actions = actions;
    this.charts = [];
  }

  /** Shows an item; nothing for an empty kind. */
  select(kind, id) {
    this.kind = kind;
    this.id = id;
    this.extra = undefined;
    this.root.hidden = !kind;
    if (!kind) return;
    this.build();
    this.root.scrollTop = 0;
    if (kind === "database") this.load();
    if (kind === "node" && id === this.model.this && !this.isUser) this.load();
  }

  /** States have changed: what is shown is made anew, at the same place. */
  rebuild() {
    if (!this.kind) return;
    const top = this.root.scrollTop;
    const focused = this.root.contains(document.activeElement) ? document.activeElement.getAttribute("data-key") : null;
    this.build();
    this.root.scrollTop = top;
    if (focused) [...this.root.querySelectorAll("[data-key]")].find((node) => node.getAttribute("data-key") === focused)?.focus();
  }

  /** Figures have changed. */
  update() {
    if (!this.kind || this.root.hidden) return;
    for (const { update } of this.charts) update();
    this.figures?.();
  }

  async load() {
    const { kind, id } = this;
    try {
      const local = nodeOf(id) === this.model.this;
      if (kind === "database" && !local) return;
      const extra = kind === "database" ? await get(path("databases", nameOf(id))) : await get("/v1/refusals");
      if (this.kind === kind && this.id === id) {
        this.extra = extra;
        this.rebuild();
      }
    } catch (error) {
      this.extra = { error: error.message };
      this.rebuild();
    }
  }

  build() {
    const item = this.model[`${this.kind}s`].get(this.id);
    this.charts = [];
    this.figures = undefined;
    const close = el("button", { type: "button", class: "small", "data-key": "close", "aria-label": "Close", on: { click: () => this.actions.select("", "") } }, "✕");
    if (!item) {
      this.root.replaceChildren(el("header", {}, el("h2", {}, "Gone"), close), el("p", { class: "note" }, "It is no longer part of the graph."));
      return;
    }
    const [title, content] = this[this.kind](item);
    const kind = { node: "Node", database: "Database", link: "Link" }[this.kind];
    this.root.replaceChildren(el("header", {}, el("div", {}, el("p", { class: "kind" }, kind), el("h2", {}, title)), close), ...content.filter(Boolean));
    this.figures?.();
  }

  chart(title, id, name, format) {
    const made = chart(title, () => this.model.course(id, name), format);
    this.charts.push(made);
    return made.node;
  }

  node(node) {
    const { model } = this;
    const kinds = { this: "this node", server: "this node connects to it", client: "connects to this node" };
    const databases = model.databasesOf(node.id);
    const links = model.linksOfNode(node.id);
    return [called(node), [
      facts([
        ["State", el("span", {}, badge(node.state), since(node.since_ms))],
        ["Role", kinds[node.kind] ?? node.kind],
        ["Address", node.address && el("code", {}, node.address)],
        ["Node id", el("code", {}, node.id)],
        ["Key", node.fingerprint && el("code", {}, node.fingerprint)],
      ]),
      el("h3", {}, "Last minutes"),
      el("div", { class: "charts" },
        this.chart("Changes a second", node.id, "ops_per_s", number),
        this.chart("Lag", node.id, "lag_ms", duration)),
      el("h3", {}, `Databases (${databases.length})`),
      databases.length ? el("div", {}, databases.map((database) => el("div", {}, this.go("database", database.id, database.name)))) : el("p", { class: "note" }, "None that this node knows of."),
      el("h3", {}, `Links (${links.length})`),
      this.links(links),
      ...this.refusals(node),
    ]];
  }

  refusals(node) {
    if (node.id !== this.model.this || this.isUser) return [];
    const told = this.extra?.refusals ?? [];
    return [
      el("h3", {}, "Turned away"),
      this.extra?.error ? el("p", { class: "message" }, this.extra.error)
        : told.length === 0 ? el("p", { class: "note" }, "Nobody.")
          : table(["When", "From", "Why"], told.slice(0, 10).map((refusal) => [time(refusal.at_ms), refusal.address, `${refusal.kind}: ${refusal.reason}`])),
    ];
  }

  database(database) {
    const { model, extra } = this;
    const local = database.node === model.this;
    const links = model.linksOf(database.id);
    const records = el("span", { class: "num" });
    this.figures = () => say(records, number(model.databases.get(database.id)?.figures.records));
    const declared = extra?.declared;
    const policy = declared?.policy;
    const serves = database.pattern === "local-only" && database.serve !== "none";
    return [database.name, [
      facts([
        ["On node", this.go("node", database.node, called(model.nodes.get(database.node)))],
        ["Pattern", serves ? "none: others connect to it" : database.pattern],
        ["Mode", !serves && database.mode],
        ["Served", database.serve],
        ["Records", local && records],
        ["End of feed", local && !this.isUser && el("span", { class: "num" }, String(extra?.head ?? database.figures.head))],
        ["Replica", database.replica && el("code", {}, database.replica)],
        ["End to end", database.sealing && sealingText(database.sealing)],
        ["Key epoch", database.sealing && String(database.sealing.epoch)],
        ["Durability", declared?.durability],
        ["File", declared && (declared.encrypted_at_rest ? "encrypted" : "not encrypted")],
        ["Indexes", declared?.indexes.join(", ")],
        ["Waiting batches", extra?.batches_waiting || ""],
      ]),
      local && el("div", { class: "form" },
        el("button", { type: "button", class: "small", "data-key": "browse", on: { click: () => this.actions.browse(database.name) } }, "Browse records"),
        el("button", { type: "button", class: "small", "data-key": "conflicts", on: { click: () => this.actions.problems(database.name) } }, `Conflicts (${extra?.conflicts ?? "…"})`)),
      local && !this.isUser && el("h3", {}, "Last minutes"),
      local && !this.isUser && el("div", { class: "charts" }, this.chart("Changes a second", database.id, "ops_per_s", number)),
      el("h3", {}, `Links (${links.length})`),
      this.links(links),
      ...(policy && database.pattern !== "local-only" ? [el("h3", {}, "Policy"), policyFacts(policy)] : []),
      ...(extra?.granted ? [el("h3", {}, "What you may read"), el("p", {}, el("code", {}, extra.granted))] : []),
      ...(declared ? [el("h3", {}, "Access rules"), accessFacts(declared.access, declared.serve)] : []),
      ...(extra?.recent ? [el("h3", {}, "Recent changes"), this.recent(database, extra.recent)] : []),
      extra?.error && el("p", { class: "message" }, extra.error),
      !local && el("p", { class: "note" }, "More is known on its own node."),
    ]];
  }

  recent(database, recent) {
    if (recent.length === 0) return el("p", { class: "note" }, "None yet.");
    const by = (replica) => {
      if (!replica) return "here";
      const known = [...this.model.databases.values()].find((other) => other.replica === replica);
      return known ? called(this.model.nodes.get(known.node)) : short(replica);
    };
    const row = (change) => [
      el("button", { type: "button", class: "link mono", "data-key": change.id, on: { click: () => this.actions.record(database.name, change.id) } }, short(change.id)),
      change.alive ? "written" : "deleted", by(change.brought_by), stamp(change.newest),
    ];
    return table(["Record", "", "From", "Written"], recent.map(row));
  }

  link(link) {
    const { model } = this;
    const name = (database) => `${called(model.nodes.get(nodeOf(database)))} / ${nameOf(database)}`;
    const live = {};
    const figure = (key) => (live[key] = el("span", { class: "num" }));
    const seals = { "smart-proxy": "nothing sealed end to end", "e2e-only": "sealed end to end, routing fields aside", seal: "some fields sealed end to end" };
    const sealed = link.encryption ? seals[link.encryption] ?? link.encryption : "nothing sealed that this node knows of";
    const local = model.databases.get(link.role === "client" ? link.client : link.server);
    this.figures = () => {
      const { figures, state } = model.links.get(link.id) ?? link;
      say(live.pending, figures.pending === null ? "not known while it is away" : `${number(figures.pending)} changes`);
      say(live.lag, duration(figures.lag_ms));
      say(live.out, `${bytes(figures.bytes_sent)}, ${number(figures.changes_sent)} changes`);
      say(live.in, `${bytes(figures.bytes_received)}, ${number(figures.changes_received)} changes`);
      say(live.done, figures.caught_up ? "yes" : state === "offline" ? "no, offline" : "no");
    };
    return [`${name(link.client)} ${arrowOf(link)} ${name(link.server)}`, [
      facts([
        ["State", el("span", {}, badge(link.state), since(link.since_ms))],
        ["Mode", link.mode || "not known yet"],
        ["Granted", link.granted && grantText(link.granted)],
        ["Pattern", link.pattern],
        ["Authority", link.authority && "the server decides"],
        ["Epoch", link.epoch === null ? "" : String(link.epoch)],
        ["Connection", "Noise XX, AES-256-GCM"],
        ["End to end", sealed],
        ["Key epoch", local?.sealing && String(local.sealing.epoch)],
        ["Client", this.go("database", link.client, name(link.client))],
        ["Server", this.go("database", link.server, name(link.server))],
        ["User", link.user],
        ["Address", el("code", {}, link.address)],
        ["Sessions", String(link.sessions)],
        ["Caught up", figure("done")],
        ["Pending here", figure("pending")],
        ["Lag", figure("lag")],
        ["Sent", figure("out")],
        ["Received", figure("in")],
      ]),
      link.error && el("p", { class: "message", role: "alert" }, link.error.message),
      link.notice && el("p", { class: "message info" }, link.notice),
      el("h3", {}, "Last minutes"),
      el("div", { class: "charts" },
        this.chart("Sent", link.id, "bytes_sent_per_s", rate),
        this.chart("Received", link.id, "bytes_received_per_s", rate),
        this.chart("Changes sent/s", link.id, "changes_sent_per_s", number),
        this.chart("Changes received/s", link.id, "changes_received_per_s", number),
        this.chart("Lag", link.id, "lag_ms", duration),
        this.chart("Pending", link.id, "pending", number)),
      ...(link.policy ? [el("h3", {}, "Policy"), policyFacts(link.policy)] : []),
    ]];
  }

  links(links) {
    if (links.length === 0) return el("p", { class: "note" }, "None.");
    const name = (database) => `${called(this.model.nodes.get(nodeOf(database)))}/${nameOf(database)}`;
    const row = (link) => [this.go("link", link.id, `${name(link.client)} ${arrowOf(link)} ${name(link.server)}`), badge(link.state)];
    return table(["Link", "State"], links.map(row));
  }

  go(kind, id, text) {
    return el("button", { type: "button", class: "link", "data-key": `${kind} ${id}`, on: { click: () => this.actions.select(kind, id) } }, text);
  }
}

function since(ms) {
  return ms ? el("span", { class: "soft", title: time(ms) }, ` since ${new Date(ms).toLocaleTimeString()}`) : "";
}

function sealingText({ encryption, member }) {
  const what = { "smart-proxy": "nothing is sealed", "e2e-only": "all but the routing fields is sealed", seal: "some fields are sealed" }[encryption];
  return `${what}; this node ${member ? "has the keys" : "has no key"}`;
}

function grantText({ push, pull }) {
  return push && pull ? "both ways" : push ? "client to server" : pull ? "server to client" : "nothing";
}

export function policyFacts(policy) {
  return facts([
    ["Records", policy.filter ? el("code", {}, policy.filter) : "all"],
    ["Left out", policy.exclude_fields.join(", ")],
    ["Sealed", policy.sealed_fields.join(", ")],
    ["Readable", policy.routing_fields.join(", ")],
    ["Compression", policy.compression],
    ["Priority", policy.priority || ""],
    ["Released", policy.release_after_ack && "after they are acknowledged"],
  ]);
}

function accessFacts(access, serve) {
  if (access.public) return el("p", {}, "Public: whoever is let in may do what the serve mode allows.");
  const rules = ["connect", "read", "insert", "update", "delete"].filter((rule) => access[rule]);
  if (rules.length === 0) return el("p", { class: "note" }, serve === "none" ? "Not served to others." : "No rule: nobody is let in.");
  return facts(rules.map((rule) => [rule, el("code", {}, access[rule])]));
}
