// A changed topology: its plan, then the change itself.

import { el, table } from "./dom.js";
import { bytes, number } from "./format.js";
import { get, send } from "./server.js";

export class Apply {
  constructor(root) {
    this.text = el("textarea", { spellcheck: "false", "aria-label": "Topology file", placeholder: "The changed topology file (TOML); empty: the node reads its own file again" });
    this.planned = undefined;
    const plan = el("button", { type: "button", class: "primary", on: { click: () => this.ask(true) } }, "Show plan");
    this.go = el("button", { type: "button", disabled: true, on: { click: () => this.ask(false) } }, "Apply");
    this.said = el("div", { role: "status" });
    this.text.addEventListener("input", () => { this.go.disabled = this.text.value !== this.planned; });
    root.append(el("div", { class: "apply" },
      el("p", { class: "note" }, "This is the node's topology file. Edit it or paste another one: the plan says which links would be opened, closed and changed, and what would be sent and removed. Nothing happens before you apply it; the file itself stays as it is."),
      el("h3", {}, "Topology file"), this.text,
      el("p", { class: "form" }, plan, this.go), this.said));
  }

  /** The node's own file is there to be edited, unless something else is already. */
  async show() {
    if (this.text.value !== "") return;
    const own = await get("/v1/apply").catch(() => undefined);
    if (own?.topology && this.text.value === "") this.text.value = own.topology;
  }

  async ask(dry) {
    const text = this.text.value;
    // Without a text the node reads its own file, which somebody may have edited.
    const body = text.trim() === "" ? undefined : { topology: text };
    try {
      const { actions } = await send("POST", `/v1/apply${dry ? "?dry_run=true" : ""}`, body);
      this.planned = dry && actions.length > 0 ? text : undefined;
      this.go.disabled = this.planned === undefined;
      this.tell(el("h3", {}, dry ? "Plan" : "Done"), actions.length
        ? table(["Action", "Sends", "Removes here"], actions.map((action) => [action.text, sent(action.sends), action.removes ? `${number(action.removes.records)} records` : ""]), { class: "stack" })
        : el("p", { class: "note" }, "Nothing to do: the node runs what the file declares."));
    } catch (error) {
      this.tell(el("p", { class: "message" }, error.missing
        ? "This node can't change its topology while it runs: it does not know POST /v1/apply. Change its topology file and start it again."
        : `${error.message}${error.hint ? ` (${error.hint})` : ""}`));
    }
  }

  tell(...content) {
    this.said.replaceChildren(...content);
  }
}

function sent(sends) {
  return sends ? `${sends.at_most ? "at most " : ""}${number(sends.records)} records, ${bytes(sends.bytes)}` : "";
}
