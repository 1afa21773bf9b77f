// Links: where they run, how they are drawn, which one is at a place.

import { isUp, rate } from "./format.js";
import { isIn } from "./crowd.js";
import { nodeOf } from "./model.js";

const HEAD = 46;
const ROW = 24;
/** More links than this are drawn in few strokes, all of one look together. */
const MANY_LINKS = 160;
/** Links of one pair of nodes that are closer on the screen than this are drawn as one. */
const APART = 4;
const ASIDE = 7;
const TREES = ["hierarchical", "star"];
const DASHES = { offline: [7, 5], connecting: [2, 4], refused: [9, 4, 2, 4], stopped: [2, 7] };
/** What is most urgent is drawn last, and stands for a bundle. */
const URGENCY = ["stopped", "idle", "syncing", "connecting", "offline", "refused"];

export class Links {
  constructor(graph) {
    this.graph = graph;
    this.forget();
  }

  /** Nodes have moved, or links are others. */
  forget() {
    this.known = undefined;
  }

  get curves() {
    this.known ??= this.trace();
    return this.known.curves;
  }

  get bundles() {
    this.known ??= this.trace();
    return this.known.bundles;
  }

  /** The course of every link. Links between the same two nodes stand beside each other. */
  trace() {
    const bundles = new Map();
    const curves = [];
    for (const link of this.graph.model.links.values()) {
      const [client, server] = [nodeOf(link.client), nodeOf(link.server)];
      if (!this.graph.places.has(client) || !this.graph.places.has(server)) continue;
      const pair = client < server ? `${client} ${server}` : `${server} ${client}`;
      const bundle = bundles.get(pair) ?? { curves: [] };
      bundles.set(pair, bundle);
      const curve = { link, ...this.course(link, client, server, bundle.curves.length) };
      bundle.curves.push(curve);
      curves.push(curve);
    }
    return { curves, bundles: [...bundles.values()] };
  }

  course(link, client, server, number) {
    const [a, b] = [this.graph.places.get(client), this.graph.places.get(server)];
    if (this.graph.compact) {
      const length = Math.hypot(b.x - a.x, b.y - a.y) || 1;
      const aside = (number % 2 ? -1 : 1) * Math.ceil(number / 2) * ASIDE;
      const [dx, dy] = [(-(b.y - a.y) / length) * aside, ((b.x - a.x) / length) * aside];
      return { from: { x: a.x + dx, y: a.y + dy }, to: { x: b.x + dx, y: b.y + dy }, bend: 0 };
    }
    const [y1, y2] = [this.graph.rowOf(client, link.client), this.graph.rowOf(server, link.server)];
    const [w1, w2] = [this.graph.sizes.get(client).width / 2, this.graph.sizes.get(server).width / 2];
    const [h1, h2] = [this.graph.sizes.get(client).height / 2, this.graph.sizes.get(server).height / 2];
    const [across, down] = [Math.abs(b.x - a.x) - w1 - w2, Math.abs(b.y - a.y) - h1 - h2];
    const isTree = TREES.includes(link.pattern) && !this.graph.tall;
    if (down >= 24 && (isTree || across < 40)) {
      const below = b.y > a.y ? 1 : -1;
      // Several links of one pair leave side by side.
      const aside = (number % 2 ? -1 : 1) * Math.ceil(number / 2) * 16;
      const from = { x: a.x + aside, y: a.y + below * h1 };
      const to = { x: b.x + aside, y: b.y - below * h2 };
      return { from, to, bend: Math.max(Math.abs(to.y - from.y) * 0.45, 24), out: below, into: -below, upright: true };
    }
    // Cards that stand above each other are joined on their right sides.
    const [right1, right2] = Math.abs(b.x - a.x) < w1 + w2 ? [1, 1] : b.x > a.x ? [1, -1] : [-1, 1];
    const from = { x: a.x + right1 * w1, y: y1 };
    const to = { x: b.x + right2 * w2, y: y2 };
    const bend = Math.max(Math.abs(to.x - from.x) * 0.45, right1 === right2 ? 46 + 14 * number : 30);
    return { from, to, bend, out: right1, into: right2 };
  }

  path(context, curve) {
    const { from, to, bend } = curve;
    context.moveTo(from.x, from.y);
    if (bend === 0) return context.lineTo(to.x, to.y);
    const [first, second] = handles(curve);
    return context.bezierCurveTo(first.x, first.y, second.x, second.y, to.x, to.y);
  }

  paintOne(context, curve) {
    const { link } = curve;
    const colour = this.graph.colours[link.state] ?? this.graph.colours.offline;
    const flow = link.figures.bytes_sent_per_s + link.figures.bytes_received_per_s;
    const near = this.graph.compact ? Math.min(this.graph.view.k, 1) : 1;
    const width = Math.min(1.6 + (flow > 0 ? Math.log10(1 + flow / 200) : 0), 6) / near;
    context.globalAlpha = this.graph.wanted("link", link.id) ? 1 : 0.12;
    context.lineCap = "butt";
    if (link.id === this.graph.selected || link.id === this.graph.over) {
      context.setLineDash([]);
      context.strokeStyle = this.graph.colours.accent;
      context.globalAlpha *= 0.3;
      context.lineWidth = width + 8 / near;
      context.beginPath();
      this.path(context, curve);
      context.stroke();
      context.globalAlpha = 1;
    }
    context.setLineDash(DASHES[link.state] ?? []);
    context.strokeStyle = colour;
    context.fillStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    this.path(context, curve);
    context.stroke();
    context.setLineDash([]);
    const { push, pull } = ways(link);
    if (push) this.arrow(context, curve, 1, width);
    if (pull) this.arrow(context, curve, 0, width);
    this.label(context, curve, flow, colour);
    context.globalAlpha = 1;
  }

  arrow(context, curve, end, width) {
    const tip = end ? curve.to : curve.from;
    const back = end ? curve.into ?? 0 : curve.out ?? 0;
    const angle = curve.bend === 0
      ? Math.atan2(curve.to.y - curve.from.y, curve.to.x - curve.from.x) + (end ? 0 : Math.PI)
      : (back > 0 ? Math.PI : 0) + (curve.upright ? Math.PI / 2 : 0);
    const size = Math.max(6 + width, 3.2 * width);
    context.beginPath();
    context.moveTo(tip.x, tip.y);
    context.lineTo(tip.x - size * Math.cos(angle - 0.42), tip.y - size * Math.sin(angle - 0.42));
    context.lineTo(tip.x - size * Math.cos(angle + 0.42), tip.y - size * Math.sin(angle + 0.42));
    context.fill();
  }

  label(context, curve, flow, colour) {
    const { link } = curve;
    const sealed = link.encryption && link.encryption !== "smart-proxy";
    // Beside the client's row there is room: the links of a hub spread out there.
    const room = (curve.upright || Math.abs(curve.to.x - curve.from.x) > 96) && this.graph.view.k > 0.7;
    const text = link.state === "refused" ? "refused" : flow > 0 && room && isUp(link.state) ? rate(flow) : "";
    if (!text && !sealed) return;
    context.font = "10px system-ui, 'DejaVu Sans', sans-serif";
    const width = (text ? context.measureText(text).width + 8 : 6) + (sealed ? 12 : 0);
    const at = this.roomFor(curve, width);
    if (!at) return;
    const { x, y } = at;
    context.fillStyle = this.graph.colours.ground;
    context.fillRect(x - width / 2, y - 7, width, 14);
    context.fillStyle = colour;
    if (sealed) {
      const left = x - width / 2 + 3;
      context.fillRect(left, y - 1, 8, 6);
      context.lineWidth = 1.4;
      context.beginPath();
      context.arc(left + 4, y - 1, 2.6, Math.PI, 0);
      context.stroke();
    }
    context.textBaseline = "middle";
    context.fillText(text, x - width / 2 + (sealed ? 15 : 4), y + 0.5);
  }

  paint(context, box) {
    this.taken = this.graph.compact ? [] : this.graph.order.map((id) => this.boxOf(id));
    if (this.curves.length <= MANY_LINKS && !this.graph.compact) {
      for (const curve of this.curves) this.paintOne(context, curve);
      return;
    }
    this.paintMany(context, box);
    const { selected, over } = this.graph;
    if (!selected && !over) return;
    for (const curve of this.curves) if (curve.link.id === selected || curve.link.id === over) this.paintOne(context, curve);
  }

  boxOf(id) {
    const [{ x, y }, { width, height }] = [this.graph.places.get(id), this.graph.sizes.get(id)];
    return { left: x - width / 2, right: x + width / 2, top: y - height / 2, bottom: y + height / 2 };
  }

  /** Where on a curve a label of this width stands on no card and on no other label. */
  roomFor(curve, width) {
    const along = this.graph.compact ? [0.5] : curve.upright ? [0.4, 0.5, 0.6, 0.3] : [0.26, 0.36, 0.5, 0.64, 0.18];
    for (const t of along) {
      const { x, y } = middle(curve, t);
      const box = { left: x - width / 2, right: x + width / 2, top: y - 7, bottom: y + 7 };
      if (this.taken.some((other) => isIn(other, box.left, box.top, box.right, box.bottom))) continue;
      this.taken.push(box);
      return { x, y };
    }
    return undefined;
  }

  /** Many links: one stroke for all of one look, no arrows and labels. Far away one line stands for all of a pair. */
  paintMany(context, box) {
    const { k } = this.graph.view;
    const bundled = this.graph.compact && ASIDE * k < APART;
    const looks = new Map();
    const add = (curve, state, dim) => {
      const { from, to, bend } = curve;
      const [left, right] = from.x < to.x ? [from.x, to.x] : [to.x, from.x];
      const [top, bottom] = from.y < to.y ? [from.y, to.y] : [to.y, from.y];
      if (!isIn(box, left - bend, top - bend, right + bend, bottom + bend)) return;
      const key = `${URGENCY.indexOf(state)}${dim ? "d" : ""}`;
      if (!looks.has(key)) looks.set(key, { state, dim, curves: [] });
      looks.get(key).curves.push(curve);
    };
    const wanted = (curve) => this.graph.wanted("link", curve.link.id);
    if (bundled) {
      for (const { curves } of this.bundles) {
        const shown = curves.filter(wanted);
        const of = shown.length ? shown : curves;
        const state = of.reduce((worst, { link }) => (URGENCY.indexOf(link.state) > URGENCY.indexOf(worst) ? link.state : worst), of[0].link.state);
        add(curves[0], state, shown.length === 0);
      }
    } else {
      for (const curve of this.curves) add(curve, curve.link.state, !wanted(curve));
    }
    const near = Math.min(k, 1);
    for (const key of [...looks.keys()].sort()) {
      const { state, dim, curves } = looks.get(key);
      context.globalAlpha = dim ? 0.07 : isUp(state) ? 0.75 : 0.9;
      context.strokeStyle = this.graph.colours[state] ?? this.graph.colours.offline;
      context.lineWidth = (bundled ? 1 : 1.3) / near;
      // Dashes cost much, and say nothing where a line is short.
      context.setLineDash(bundled ? [] : (DASHES[state] ?? []).map((length) => length / near));
      context.beginPath();
      for (const curve of curves) this.path(context, curve);
      context.stroke();
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  /** The link under a point of the screen, relative to the graph. */
  at(px, py) {
    const [x, y] = [(px - this.graph.view.x) / this.graph.view.k, (py - this.graph.view.y) / this.graph.view.k];
    let best = { distance: 7 / this.graph.view.k };
    for (const curve of this.curves) {
      const { from, to, bend } = curve;
      if (x < Math.min(from.x, to.x) - bend - 9 || x > Math.max(from.x, to.x) + bend + 9) continue;
      if (y < Math.min(from.y, to.y) - bend - 9 || y > Math.max(from.y, to.y) + bend + 9) continue;
      const steps = bend === 0 ? 1 : 24;
      let last = from;
      for (let step = 1; step <= steps; step += 1) {
        const next = middle(curve, step / steps);
        const distance = toSegment(x, y, last, next);
        if (distance < best.distance) best = { distance, link: curve.link };
        last = next;
      }
    }
    return best.link;
  }

  /** Where the middle of a link is in the window. */
  pointOf(id) {
    const curve = this.curves.find(({ link }) => link.id === id);
    if (!curve) return null;
    const { left, top } = this.graph.root.getBoundingClientRect();
    const at = middle(curve, 0.5);
    return { x: left + this.graph.view.x + at.x * this.graph.view.k, y: top + this.graph.view.y + at.y * this.graph.view.k };
  }
}

/** Which ways changes go: as granted, or as asked for. */
export function ways(link) {
  if (link.granted) return link.granted;
  return { push: ["bidirectional", "write-only"].includes(link.mode), pull: ["bidirectional", "read-only"].includes(link.mode) };
}

export function arrowOf(link) {
  const { push, pull } = ways(link);
  return push && pull ? "↔" : push ? "→" : pull ? "←" : "–";
}

/** The points that a curve leaves and comes in by. */
function handles({ from, to, bend, out, into, upright }) {
  return upright
    ? [{ x: from.x, y: from.y + out * bend }, { x: to.x, y: to.y + into * bend }]
    : [{ x: from.x + out * bend, y: from.y }, { x: to.x + into * bend, y: to.y }];
}

function middle(curve, t) {
  const { from, to, bend } = curve;
  if (bend === 0) return { x: from.x + (to.x - from.x) * t, y: from.y + (to.y - from.y) * t };
  const [first, second] = handles(curve);
  const s = 1 - t;
  const [a, b, c, d] = [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t];
  return {
    x: a * from.x + b * first.x + c * second.x + d * to.x,
    y: a * from.y + b * first.y + c * second.y + d * to.y,
  };
}

function toSegment(x, y, a, b) {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const square = dx * dx + dy * dy || 1;
  const t = Math.min(Math.max(((x - a.x) * dx + (y - a.y) * dy) / square, 0), 1);
  return Math.hypot(x - a.x - t * dx, y - a.y - t * dy);
}
