// Databases and their records: find, read, see where each field comes from and on which nodes a record is.

import { badge, el, facts, put, svg, table } from "./dom.js";
import { called, fieldName, number, short, stamp, value } from "./format.js";
import { get, path, send } from "./server.js";

const PAGE = 50;
const COLUMNS = 7;

export class Records {
  constructor(root, model, actions) {
    this.root = root;
    this.model = model;
    this.actions = actions;
    this.offset = 0;
    this.database = el("select", { "aria-label": "Database", on: { change: () => this.find(0) } });
    this.filter = el("input", { class: "grow mono", placeholder: "Filter, such as  status == \"open\" && priority > 5", "aria-label": "Filter", spellcheck: "false", autocomplete: "off" });
    this.order = el("input", { placeholder: "Order, such as priority:desc", "aria-label": "Order by", spellcheck: "false", autocomplete: "off", size: "22" });
    for (const input of [this.filter, this.order]) input.addEventListener("keydown", (event) => event.key === "Enter" && this.find(0));
    this.id = el("input", { placeholder: "Record id", "aria-label": "Record id", spellcheck: "false", autocomplete: "off", size: "20" });
    this.id.addEventListener("keydown", (event) => event.key === "Enter" && this.id.value.trim() && this.open(this.id.value.trim()));
    this.state = el("p", { class: "note", role: "status" });
    this.result = el("div");
    this.panel = el("aside", { class: "panel", "aria-label": "Record", hidden: true });
    this.body = el("div", { class: "split" }, el("div", {}, this.state, this.result), this.panel);
    root.append(
      el("div", { class: "form" }, this.database, this.filter, this.order,
        el("button", { type: "button", class: "primary", id: "find", on: { click: () => this.find(0) } }, "Find"), this.id),
      this.body);
  }

  async show(database, record) {
    await this.loadDatabases();
    if (database) this.database.value = database;
    if (database && !record) this.filter.value = "";
    await this.find(0);
    if (record) await this.open(record);
  }

  async loadDatabases() {
    const own = this.model.databasesOf(this.model.this).map((database) => database.name);
    const chosen = this.database.value;
    if (own.join() === [...this.database.options].map((option) => option.value).join()) return;
    this.database.replaceChildren(...own.map((name) => el("option", { value: name }, name)));
    if (own.includes(chosen)) this.database.value = chosen;
  }

  async find(offset) {
    const database = this.database.value;
    if (!database) {
      this.state.textContent = "This node has no open database.";
      return;
    }
    this.offset = offset;
    this.closeRecord();
    const filter = this.filter.value.trim() || null;
    const order = this.order.value.split(",").map((key) => key.trim()).filter(Boolean);
    this.state.textContent = "Looking…";
    this.state.classList.remove("error");
    try {
      const query = path("databases", database, "query");
      const [found, counted] = await Promise.all([
        send("POST", query, { filter, order_by: order, limit: PAGE, offset }),
        send("POST", query, { filter, count: true }),
      ]);
      // What this node can't read is not in its records: whether something is sealed is asked of the file.
      const ids = found.records.map((record) => record.id);
      const { sealed } = ids.length ? await send("POST", path("databases", database, "sealed"), { ids }) : { sealed: {} };
      this.fill(found.records, counted.count, sealed);
    } catch (error) {
      this.state.textContent = `${error.message}${error.hint ? ` (${error.hint})` : ""}`;
      this.state.classList.add("error");
      this.result.replaceChildren();
    }
  }

  fill(records, count, sealed) {
    const counts = new Map();
    for (const record of records) for (const name of Object.keys(record)) counts.set(name, (counts.get(name) ?? 0) + 1);
    counts.delete("id");
    const columns = [...counts].sort((a, b) => b[1] - a[1]).slice(0, COLUMNS).map(([name]) => name);
    const anySealed = Object.keys(sealed).length > 0;
    const row = (record) => ({
      properties: { class: "pick", tabindex: "0", "data-record": record.id, on: { click: () => this.open(record.id), keydown: (event) => event.key === "Enter" && this.open(record.id) } },
      cells: [{ content: short(record.id), class: "mono clip", title: record.id }, ...(anySealed ? [lock(sealed[record.id])] : []), ...columns.map((name) => ({ content: name in record ? shown(record[name]) : "", class: "clip" }))],
    });
    const last = this.offset + records.length;
    this.state.textContent = count === 0 ? "No record matches." : `${number(this.offset + 1)} to ${number(last)} of ${number(count)}${counts.size > COLUMNS ? `; ${counts.size - COLUMNS} more fields in each record's panel` : ""}`;
    const page = (text, offset, enabled) => el("button", { type: "button", class: "small", disabled: !enabled, on: { click: () => this.find(offset) } }, text);
    this.result.replaceChildren(
      records.length ? table(["id", ...(anySealed ? ["Sealed"] : []), ...columns], records.map(row)) : "",
      count > PAGE ? el("p", { class: "form" }, page("Previous", Math.max(this.offset - PAGE, 0), this.offset > 0), page("Next", last, last < count)) : "");
  }

  closeRecord() {
    this.panel.hidden = true;
    this.body.classList.remove("two");
    for (const row of this.result.querySelectorAll(".selected")) row.classList.remove("selected");
  }

  async open(id) {
    const database = this.database.value;
    this.closeRecord();
    for (const row of this.result.querySelectorAll(`[data-record]`)) row.classList.toggle("selected", row.getAttribute("data-record") === id);
    const close = el("button", { type: "button", class: "small", "aria-label": "Close", on: { click: () => this.closeRecord() } }, "✕");
    const header = el("header", {}, el("h2", { class: "mono" }, id), close);
    const show = (...content) => {
      put(this.panel, header, content);
      this.panel.hidden = false;
      this.body.classList.add("two");
    };
    try {
      const at = ["databases", database, "records", id];
      const [told, record] = await Promise.all([get(path(...at, "explain")), get(path(...at)).catch(() => ({}))]);
      show(...this.describe(database, told, record));
    } catch (error) {
      show(el("p", { class: "message" }, error.message));
    }
  }

  describe(database, told, record) {
    const by = (replica) => {
      const known = [...this.model.databases.values()].find((other) => other.replica === replica);
      return known ? called(this.model.nodes.get(known.node)) : short(replica);
    };
    const field = (field) => [
      el("span", { title: field.name }, fieldName(field.name, field.sealed)),
      field.sealed ? lock() : field.removed ? el("span", { class: "soft" }, "removed") : shown(record[field.name]),
      el("span", { class: "soft", title: `replica ${field.written.replica}, counter ${field.written.counter}` }, `${stamp(field.written)} by ${by(field.written.replica)}`),
    ];
    const lost = (conflict) => [fieldName(conflict.field, conflict.sealed), conflict.sealed ? lock() : shown(conflict.value), `${conflict.kind}; written ${stamp(conflict.written)} by ${by(conflict.written.replica)}`];
    const way = (link) => [link.peer_name || link.address, badge(link.verdict), el("span", { class: "soft" }, link.why)];
    return [
      el("p", {}, badge(told.here), el("span", { class: "soft" }, ` ${told.why}`)),
      told.unopened && el("p", { class: "message" }, `It could not be opened here: ${told.unopened.reason}.`),
      told.rejected.map((refused) => el("p", { class: "message" }, `An authority has refused the ${refused.op}: ${refused.reason}. See Problems.`)),
      told.leaving.map((way) => el("p", { class: "message" }, `It goes away (${way.reason.replace("_", " ")}, ${way.link}) once this node's own edits of it have got through.`)),
      el("h3", {}, "Fields"),
      told.fields.length ? table(["Field", "Value", "Last write"], told.fields.map(field)) : el("p", { class: "note" }, "None are known here."),
      el("h3", {}, "History"),
      facts([
        ["Inserted", told.born && `${stamp(told.born)} by ${by(told.born.replica)}`],
        ["Deleted", told.died && `${stamp(told.died)} by ${by(told.died.replica)}`],
        ["Place in feed", told.seq === null ? "" : String(told.seq)],
        ["Came from", told.brought_by ? by(told.brought_by) : told.seq === null ? "" : "written here"],
      ]),
      el("h3", {}, "Lost a conflict"),
      told.conflicts.length ? table(["Field", "Value", ""], told.conflicts.map(lost)) : el("p", { class: "note" }, "Nothing."),
      el("h3", {}, "On other nodes"),
      told.links.length ? table(["Node", "There", "Why"], told.links.map(way)) : el("p", { class: "note" }, `No link: ${database} is on this node alone.`),
    ];
  }
}

/** What is sealed end to end: how many fields, if there are several. */
export function lock(count = 1) {
  if (!count) return "";
  const sign = svg("svg", { class: "lock", viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("path", { d: "M2 6h8v5H2zM3.5 6V4.5a2.5 2.5 0 0 1 5 0V6", fill: "none", stroke: "currentColor", "stroke-width": "1.2" }));
  return el("span", { class: "sealed", title: "Sealed end to end: this node has no key for it" }, sign, count > 1 ? `${count} fields sealed` : "sealed");
}

/** A field's value. */
export function shown(json) {
  if (json === undefined || json === null) return el("span", { class: "soft" }, json === null ? "null" : "");
  const { text, type } = value(json);
  const cut = text.length > 400 ? `${text.slice(0, 400)}…` : text;
  return el("span", {}, cut, type && type !== "number" && type !== "boolean" ? el("span", { class: "type" }, ` ${type}`) : "");
}
