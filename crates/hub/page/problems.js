// What went wrong: writes that lost a conflict, writes that an authority refused, connections that were turned away.

import { el, table } from "./dom.js";
import { called, fieldName, short, stamp, time } from "./format.js";
import { get, lines, path, send } from "./server.js";
import { lock, shown } from "./records.js";

const MOST = 200;

export class Problems {
  constructor(root, model, actions) {
    this.model = model;
    this.actions = actions;
    this.database = el("select", { "aria-label": "Database", on: { change: () => this.load() } });
    this.body = el("div");
    root.append(el("div", { class: "form" }, this.database, el("button", { type: "button", on: { click: () => this.load() } }, "Look again")), this.body);
  }

  async show(database) {
    const own = this.model.databasesOf(this.model.this).map((known) => known.name);
    const chosen = database ?? this.database.value;
    this.database.replaceChildren(...own.map((name) => el("option", { value: name }, name)));
    if (own.includes(chosen)) this.database.value = chosen;
    await this.load();
  }

  async load() {
    const database = this.database.value;
    const parts = await Promise.all([
      database ? this.section("Writes that lost a conflict", () => this.conflicts(database)) : "",
      database && !this.isUser ? this.section("Refused writes", () => this.rejected(database)) : "",
      this.isUser ? "" : this.section("Connections turned away", () => this.refusals()),
    ]);
    this.body.replaceChildren(...parts);
  }

  async section(title, make) {
    let content;
    try {
      content = await make();
    } catch (error) {
      content = error.missing
        ? el("p", { class: "note" }, "This node does not have that yet: its version does not know the request.")
        : el("p", { class: "message" }, error.message);
    }
    return el("div", {}, el("h3", {}, title), content);
  }

  by(replica) {
    const known = [...this.model.databases.values()].find((other) => other.replica === replica);
    return known ? called(this.model.nodes.get(known.node)) : short(replica);
  }

  async conflicts(database) {
    const all = await lines(path("databases", database, "conflicts"));
    if (all.length === 0) return el("p", { class: "note" }, "None: no write of two nodes has met.");
    const kinds = { overwritten: "a later write won", deleted: "a deletion won", outlived: "the record was inserted anew" };
    const row = (conflict) => [
      this.record(database, conflict.id), fieldName(conflict.field, conflict.sealed), conflict.sealed ? lock() : shown(conflict.value), kinds[conflict.kind] ?? conflict.kind,
      `${stamp(conflict.written)} by ${this.by(conflict.written.replica)}`, `${stamp(conflict.winner)} by ${this.by(conflict.winner.replica)}`,
    ];
    return el("div", {}, table(["Record", "Field", "Value that lost", "Why", "Written", "Won"], all.slice(0, MOST).map(row), { class: "stack" }),
      all.length > MOST ? el("p", { class: "note" }, `The newest ${MOST} of ${all.length}.`) : "");
  }

  async rejected(database) {
    const all = await lines(path("databases", database, "rejected"));
    if (all.length === 0) return el("p", { class: "note" }, "None.");
    const act = (id, method, parts, text) => el("button", { type: "button", class: "small", on: { click: async (event) => {
      event.target.disabled = true;
      try {
        await send(method, path("databases", database, "rejected", id, ...parts));
        await this.load();
      } catch (error) {
        event.target.disabled = false;
        event.target.after(el("span", { class: "error" }, ` ${error.message}`));
      }
    } } }, text);
    const content = ({ id, ...fields }) => Object.entries(fields).map(([name, value]) => el("div", {}, `${name}: `, shown(value)));
    const row = (write) => [
      this.record(database, write.id), write.op, write.reason, content(write.record ?? {}).concat((write.unset ?? []).map((name) => el("div", {}, `${name}: removed`))), time(write.at),
      el("span", { class: "form" }, act(write.id, "POST", ["retry"], "Retry"), act(write.id, "DELETE", [], "Drop")),
    ].map((content) => ({ content }));
    return table(["Record", "Write", "Reason", "Content", "When", ""], all.slice(0, MOST).map(row), { class: "stack" });
  }

  async refusals() {
    const { refusals } = await get("/v1/refusals");
    if (refusals.length === 0) return el("p", { class: "note" }, "None.");
    return table(["When", "From", "Database", "Reason"], refusals.map((refusal) => [
      time(refusal.at_ms), refusal.node ? called(this.model.nodes.get(refusal.node)) || refusal.node : refusal.address, refusal.database ?? "", `${refusal.kind}: ${refusal.reason}`]), { class: "stack" });
  }

  record(database, id) {
    return el("button", { type: "button", class: "link mono", on: { click: () => this.actions.record(database, id) } }, short(id));
  }
}
