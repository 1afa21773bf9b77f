// The drawing: nodes are cards of the document, so that text, focus and themes are the browser's; links are on a
// canvas behind them, so that thousands of them cost little. Many nodes are on the canvas too: what is left of their
// cards are buttons that nobody sees, for keyboards and screen readers.

import { isIn, nearest, nodeAt, paintFields, paintNames, paintNodes, sight } from "./crowd.js";
import { el, say, svg } from "./dom.js";
import { called, duration, number } from "./format.js";
import { bounds, layout } from "./layout.js";
import { Links, arrowOf } from "./links.js";
import { nameOf, nodeOf } from "./model.js";

const HEAD = 46;
const ROW = 24;
const WIDTH = 184;
const COMPACT = { width: 124, height: 26 };
/** More nodes than this are drawn small; they stay so until there are clearly fewer. */
const MANY_NODES = 40;
const STILL_MANY = 34;
const MAX_ROWS = 10;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Graph {
  constructor(root, model, onSelect) {
    this.root = root;
    this.model = model;
    this.onSelect = onSelect;
    this.canvas = root.querySelector("canvas");
    this.layer = root.querySelector(".cards");
    this.hint = root.querySelector(".hint");
    this.view = { x: 0, y: 0, k: 1 };
    this.cards = new Map();
    this.order = [];
    this.places = new Map();
    this.moved = new Map();
    this.sizes = new Map();
    this.selected = "";
    this.wanted = () => true;
    this.free = true;
    this.groups = [];
    this.compact = false;
    this.links = new Links(this);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.listen();
    new ResizeObserver(() => this.resize()).observe(root);
    // For scripts that click on a link or a node, or measure how long a picture takes (milliseconds).
    root.linkPoint = (id) => this.links.pointOf(id);
    root.nodePoint = (id) => this.pointOf(id);
    root.pictureTime = () => {
      const started = performance.now();
      this.paint();
      return performance.now() - started;
    };
  }

  /** Nodes, databases, links or states have changed. */
  reshape() {
    const { model } = this;
    const known = new Set(this.order);
    const gone = this.order.filter((id) => !model.nodes.has(id));
    const fresh = [...model.nodes.keys()].filter((id) => !known.has(id));
    fresh.sort((a, b) => (called(model.nodes.get(a)) < called(model.nodes.get(b)) ? -1 : 1));
    this.order = this.order.filter((id) => model.nodes.has(id)).concat(fresh);
    const compact = this.order.length > (this.compact ? STILL_MANY : MANY_NODES);
    const other = compact !== this.compact;
    this.compact = compact;
    this.layer.classList.toggle("unseen", compact);
    this.links.forget();
    for (const id of gone) {
      this.cards.get(id)?.node.remove();
      this.cards.delete(id);
      this.moved.delete(id);
    }
    this.own = new Map(this.order.map((id) => [id, []]));
    for (const database of model.databases.values()) this.own.get(database.node)?.push(database);
    for (const list of this.own.values()) list.sort((a, b) => (a.name < b.name ? -1 : 1));
    let grown = false;
    for (const id of this.order) grown = this.ensureCard(id, other) || grown;
    if (gone.length || fresh.length || other || grown) this.place();
    this.refresh();
  }

  /** Figures have changed. */
  refresh() {
    const { model } = this;
    for (const [id, card] of this.cards) {
      const node = model.nodes.get(id);
      if (this.compact) {
        say(card.name, called(node));
        say(card.figures, node.state);
        continue;
      }
      card.dot.setAttribute("class", `dot ${node.state}`);
      say(card.name, called(node));
      const lag = node.figures.lag_ms > 0 ? ` · lag ${duration(node.figures.lag_ms)}` : "";
      const quiet = node.state === "online" || node.state === "running";
      say(card.figures, quiet ? `${number(node.figures.ops_per_s)} ops/s${lag}` : node.state);
      for (const [database, row] of card.rows) {
        const { figures } = model.databases.get(database) ?? { figures: {} };
        say(row.number, figures.records === null || figures.records === undefined ? "" : number(figures.records));
      }
    }
    this.mark();
  }

  /** Makes a card, or makes it anew if its databases are others. Answers whether it did. */
  ensureCard(id, other) {
    const node = this.model.nodes.get(id);
    const databases = this.own.get(id);
    const key = `${this.compact}|${node.kind}|${databases.map((database) => database.id).join("|")}`;
    const known = this.cards.get(id);
    if (known?.key === key && !other) return false;
    const shown = this.compact ? [] : databases.slice(0, databases.length > MAX_ROWS ? MAX_ROWS - 1 : MAX_ROWS);
    const dot = el("i", { class: "dot" });
    const name = el("span", { class: "name" });
    const figures = el("span", { class: "figures num" });
    const head = el("button", { type: "button", class: "head", "data-id": id, tabindex: this.compact && id !== this.model.this ? "-1" : undefined, on: { click: () => this.pick("node", id) } },
      dot, el("span", { class: "titles" }, name, figures));
    const rows = new Map();
    const lines = shown.map((database) => {
      const number = el("span", { class: "num" });
      const line = el("button", { type: "button", class: "db", "data-id": database.id, on: { click: () => this.pick("database", database.id) } },
        cylinder(), el("span", { class: "label" }, database.name), number);
      rows.set(database.id, { line, number });
      return line;
    });
    const left = databases.length - shown.length;
    if (!this.compact && left > 0) {
      lines.push(el("button", { type: "button", class: "db soft", on: { click: () => this.pick("node", id) } }, `${left} more`));
    }
    const card = el("div", { class: `card ${node.kind} ${this.compact ? "compact" : ""}`, "data-node": id }, head, lines);
    known?.node.remove();
    this.layer.append(card);
    this.cards.set(id, { node: card, key, dot, name, figures, rows, head });
    this.sizes.set(id, this.compact ? COMPACT : { width: WIDTH, height: HEAD + ROW * lines.length + 2 });
    return true;
  }

  place() {
    const { width, height } = this.root.getBoundingClientRect();
    const first = this.places.size === 0;
    this.tall = width < 560 && height > width * 0.8;
    const { places, groups } = layout(this.model, this.order, this.sizes, this.tall);
    this.places = places;
    this.groups = groups;
    for (const [id, place] of this.moved) if (this.places.has(id)) this.places.set(id, place);
    this.links.forget();
    if (!this.compact) {
      for (const [id, card] of this.cards) {
        card.node.style.width = `${this.sizes.get(id).width}px`;
        card.node.classList.toggle("moving", !first);
        this.put(id);
      }
    }
    if (this.free) this.fit();
    else this.draw();
    // Cards glide to their new places; links are drawn where cards are going.
    setTimeout(() => this.draw(), 280);
  }

  put(id) {
    const [{ x, y }, { width, height }] = [this.places.get(id), this.sizes.get(id)];
    this.cards.get(id).node.style.transform = `translate(${x - width / 2}px, ${y - height / 2}px)`;
  }

  tidy() {
    this.moved.clear();
    this.free = true;
    this.order.sort((a, b) => (called(this.model.nodes.get(a)) < called(this.model.nodes.get(b)) ? -1 : 1));
    this.place();
  }

  resize() {
    const { width, height } = this.root.getBoundingClientRect();
    if (width === 0) return;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    if (this.free && this.order.length) this.place();
    else this.draw();
  }

  /** Everything in sight. */
  fit() {
    this.free = true;
    const { width, height } = this.root.getBoundingClientRect();
    if (width === 0) return;
    const box = bounds(this.places, this.sizes);
    const [w, h] = [box.right - box.left, box.bottom - box.top];
    const pad = width < 560 ? 14 : 40;
    const [low, high] = [pad, pad + (width < 560 ? 40 : 0)];
    const k = Math.min((width - 2 * pad) / w, (height - low - high) / h, 1.2);
    const place = { x: width / 2 - (k * (box.left + box.right)) / 2, y: (height - high + low) / 2 - (k * (box.top + box.bottom)) / 2 };
    this.look({ ...place, k: Math.max(k, 0.03) });
  }

  look(view) {
    this.view = view;
    if (!this.compact) this.layer.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.k})`;
    this.draw();
  }

  zoom(factor, x, y) {
    const { width, height } = this.root.getBoundingClientRect();
    const [px, py] = [x ?? width / 2, y ?? height / 2];
    const k = Math.min(Math.max(this.view.k * factor, 0.03), 4);
    const grow = k / this.view.k;
    this.free = false;
    this.look({ k, x: px - (px - this.view.x) * grow, y: py - (py - this.view.y) * grow });
  }

  pan(dx, dy) {
    this.free = false;
    this.look({ ...this.view, x: this.view.x + dx, y: this.view.y + dy });
  }

  hideHint() {
    this.setHover(undefined);
  }

  /** Sees to it that an item is above `bottom`, a place of the window from which on something else stands there. */
  reveal(kind, id, bottom) {
    const at = kind === "link" ? this.links.pointOf(id) : this.pointOf(kind === "database" ? nodeOf(id) : id);
    const { top } = this.root.getBoundingClientRect();
    if (at && at.y > bottom - 40) this.pan(0, (top + bottom) / 2 - at.y);
  }

  /** Brings a node to the middle. */
  show(id) {
    const place = this.places.get(id);
    if (!place) return;
    const { width, height } = this.root.getBoundingClientRect();
    const k = Math.max(this.view.k, 0.8);
    this.free = false;
    this.look({ k, x: width / 2 - place.x * k, y: height / 2 - place.y * k });
  }

  pick(kind, id) {
    if (this.hasDragged) return;
    this.onSelect(kind, id);
  }

  /** Which item is selected, and which ones are wanted: the others fade. */
  setMarks(selected, wanted) {
    this.selected = selected;
    this.wanted = wanted;
    this.mark();
  }

  mark() {
    for (const [id, card] of this.compact ? [] : this.cards) {
      card.node.classList.toggle("dim", !this.wanted("node", id));
      card.node.classList.toggle("selected", id === this.selected);
      for (const [database, { line }] of card.rows) {
        line.classList.toggle("selected", database === this.selected);
        line.classList.toggle("dim", !this.wanted("database", database));
      }
    }
    this.draw();
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.paint();
    });
  }

  paint() {
    const { context, view, compact } = this;
    const scale = window.devicePixelRatio || 1;
    const { x, y, k } = view;
    this.colours ??= this.readColours();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.fillStyle = this.colours.ground;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(scale * k, 0, 0, scale * k, scale * x, scale * y);
    const box = sight(view, this.canvas.width / scale, this.canvas.height / scale);
    if (compact) paintFields(context, this.groups, view, this.colours, box);
    this.links.paint(context, box);
    if (!compact) return;
    const look = (id) => ({ dim: !this.wanted("node", id), selected: id === this.selected, focused: id === this.focused });
    paintNodes(context, this.order, this.places, COMPACT, this.model, view, this.colours, box, look);
    paintNames(context, this.groups, this.model, view, this.colours, box);
  }

  /** The theme has changed. */
  recolour() {
    this.colours = undefined;
    this.draw();
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    const names = ["syncing", "idle", "connecting", "offline", "refused", "stopped", "accent", "accent-soft", "ground", "surface", "text", "soft", "raised", "line", "line-strong"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  rowOf(node, database) {
    const { y } = this.places.get(node);
    const { height } = this.sizes.get(node);
    const index = this.own.get(node).findIndex((known) => known.id === database);
    const rows = Math.round((height - HEAD) / ROW);
    return y - height / 2 + HEAD + (Math.min(Math.max(index, 0), Math.max(rows - 1, 0)) + 0.5) * ROW;
  }

  /** Where a node is in the window. */
  pointOf(id) {
    const place = this.places.get(id);
    if (!place) return null;
    const { left, top } = this.root.getBoundingClientRect();
    return { x: left + this.view.x + place.x * this.view.k, y: top + this.view.y + place.y * this.view.k };
  }

  /** The node that is drawn at a point of the screen, relative to the graph. */
  nodeAt({ x, y }) {
    if (!this.compact) return undefined;
    const { view } = this;
    return nodeAt((x - view.x) / view.k, (y - view.y) / view.k, this.order, this.places, COMPACT);
  }

  listen() {
    const { root } = this;
    const touches = new Map();
    let held;
    const at = (event) => {
      const { left, top } = root.getBoundingClientRect();
      return { x: event.clientX - left, y: event.clientY - top };
    };
    root.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = at(event);
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), x, y);
    }, { passive: false });
    root.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      touches.set(event.pointerId, at(event));
      const card = event.target.closest?.(".card");
      held = { start: at(event), card: card?.getAttribute("data-node") ?? this.nodeAt(at(event)), drawn: !card };
      this.hasDragged = false;
    });
    window.addEventListener("pointermove", (event) => {
      const now = at(event);
      const before = touches.get(event.pointerId);
      if (!before) return root.contains(event.target) ? this.hover(event, now) : undefined;
      touches.set(event.pointerId, now);
      const [dx, dy] = [now.x - before.x, now.y - before.y];
      if (touches.size === 2) {
        const other = [...touches].find(([id]) => id !== event.pointerId)[1];
        const length = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
        this.hasDragged = true;
        return this.zoom(length(now) / length(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
      }
      if (!this.hasDragged && Math.hypot(now.x - held.start.x, now.y - held.start.y) < 5) return undefined;
      this.hasDragged = true;
      root.classList.add("dragging");
      return held.card ? this.moveCard(held.card, dx, dy) : this.pan(dx, dy);
    });
    const release = (event) => {
      if (!touches.delete(event.pointerId)) return;
      root.classList.remove("dragging");
      if (event.type === "pointerup" && !this.hasDragged && held.drawn) {
        const link = held.card ? undefined : this.links.at(held.start.x, held.start.y);
        if (held.card) this.onSelect("node", held.card);
        else if (link) this.onSelect("link", link.id);
        else if (root.contains(event.target)) this.onSelect("", "");
      }
      // A click follows, and is to be ignored after a drag.
      setTimeout(() => { this.hasDragged = false; }, 0);
    };
    window.addEventListener("pointerup", release);
    window.addEventListener("pointercancel", release);
    root.addEventListener("pointerleave", () => this.setHover(undefined));
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("focusin", (event) => this.focusOn(event.target.closest?.(".card")));
    root.addEventListener("focusout", () => this.focusOn(undefined));
    // The browser scrolls to what has the focus; here the view moves instead.
    root.addEventListener("scroll", () => { root.scrollTop = 0; root.scrollLeft = 0; });
  }

  moveCard(id, dx, dy) {
    const place = this.places.get(id);
    const now = { x: place.x + dx / this.view.k, y: place.y + dy / this.view.k };
    this.free = false;
    this.moved.set(id, now);
    this.places.set(id, now);
    this.links.forget();
    if (!this.compact) {
      this.cards.get(id).node.classList.remove("moving");
      this.put(id);
    }
    this.draw();
  }

  /** A card has the focus now: it has to be seen. */
  focusOn(card) {
    const id = card?.querySelector(":focus-visible") ? card.getAttribute("data-node") : undefined;
    if (this.compact && id !== this.focused) {
      this.focused = id;
      this.draw();
    }
    if (id === undefined) return;
    if (this.compact) {
      const { width, height } = this.root.getBoundingClientRect();
      const { x, y } = this.places.get(id);
      if (!isIn(sight(this.view, width, height, -40), x, y, x, y)) this.show(id);
      return;
    }
    const [box, frame] = [card.getBoundingClientRect(), this.root.getBoundingClientRect()];
    if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom) {
      this.show(card.getAttribute("data-node"));
    }
  }

  hover(event, { x, y }) {
    if (this.lookingUp) return;
    this.lookingUp = true;
    requestAnimationFrame(() => {
      this.lookingUp = false;
      const node = this.nodeAt({ x, y });
      this.root.classList.toggle("over-node", Boolean(node));
      this.setHover(node || event.target.closest?.(".card") ? undefined : this.links.at(x, y), x, y);
    });
  }

  setHover(link, x, y) {
    this.root.classList.toggle("over-link", Boolean(link));
    this.hint.hidden = !link;
    if (link) {
      const name = (database) => `${called(this.model.nodes.get(nodeOf(database)))}/${nameOf(database)}`;
      say(this.hint, `${name(link.client)} ${arrowOf(link)} ${name(link.server)} · ${link.mode || "no mode"} · ${link.state}`);
      const { width } = this.root.getBoundingClientRect();
      this.hint.style.left = `${Math.min(x + 14, Math.max(width - 290, 4))}px`;
      this.hint.style.top = `${y + 16}px`;
    }
    if (this.over !== link?.id) {
      this.over = link?.id;
      this.draw();
    }
  }

  /** Arrows go from a node that has the focus to the nearest one there; else they pan. */
  key(event) {
    const way = ARROWS[event.key];
    if (!way || event.altKey) return;
    event.preventDefault();
    const from = event.target.closest?.(".card")?.getAttribute("data-node");
    if (!from) {
      this.pan(-60 * way[0], -60 * way[1]);
      return;
    }
    const next = nearest(from, way, this.order, this.places);
    const head = this.cards.get(next)?.head;
    if (!head) return;
    if (this.compact) {
      this.cards.get(from).head.setAttribute("tabindex", "-1");
      head.removeAttribute("tabindex");
    }
    head.focus({ preventScroll: true });
  }
}

function cylinder() {
  return svg("svg", { class: "cylinder", viewBox: "0 0 10 11", "aria-hidden": "true" },
    svg("path", { d: "M1 2.5c0-2 8-2 8 0v6c0 2-8 2-8 0zM1 2.5c0 2 8 2 8 0", fill: "none", stroke: "currentColor" }));
}
