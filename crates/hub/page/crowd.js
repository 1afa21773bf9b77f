// Many nodes: they are drawn on the canvas, in as much detail as there is room for. Far away a node is a small mark
// and each group a field with its name; nearer, nodes are cards. What is out of sight is not drawn.

import { called } from "./format.js";

/** From here on there is room for names on cards. */
const NAMES = 0.62;
/** Below this, groups are named instead. */
const GROUPS = 0.8;
/** Fields that are narrower on the screen have no name. */
const ROOM = 90;
const FONT = "system-ui, 'DejaVu Sans', sans-serif";

/** What of the world is in sight, and a little around it. */
export function sight({ x, y, k }, width, height, margin = 40) {
  return { left: -x / k - margin, top: -y / k - margin, right: (width - x) / k + margin, bottom: (height - y) / k + margin };
}

export const isIn = (box, left, top, right, bottom) =>
  right >= box.left && left <= box.right && bottom >= box.top && top <= box.bottom;

/** The fields behind groups. */
export function paintFields(context, groups, view, colours, box) {
  context.lineWidth = 1 / view.k;
  context.strokeStyle = colours.line;
  context.fillStyle = colours.surface;
  context.beginPath();
  for (const { left, top, right, bottom } of groups) {
    if (isIn(box, left, top, right, bottom)) context.roundRect(left, top, right - left, bottom - top, 14);
  }
  context.fill();
  context.stroke();
}

/** The names of groups, in the size of the page's text however far away they are. */
export function paintNames(context, groups, model, { x, y, k }, colours, box) {
  if (k > GROUPS) return;
  context.textBaseline = "bottom";
  for (const { id, count, left, top, right, bottom } of groups) {
    if (!isIn(box, left, top, right, bottom) || (right - left) * k < ROOM) continue;
    const size = 11 / k;
    context.font = `600 ${size}px ${FONT}`;
    context.fillStyle = colours.soft;
    const text = `${called(model.nodes.get(id)) ?? "others"} · ${count}`;
    context.fillText(cut(context, text, right - left), left + 4, top - 2 / k);
  }
}

/** The nodes. `look` answers { dim, selected, focused } of a node. */
export function paintNodes(context, order, places, size, model, view, colours, box, look) {
  const { k } = view;
  const named = k >= NAMES;
  const [w, h] = [size.width / 2, size.height / 2];
  context.textBaseline = "middle";
  context.font = `500 12px ${FONT}`;
  for (const id of order) {
    const { x, y } = places.get(id);
    if (!isIn(box, x - w, y - h, x + w, y + h)) continue;
    const node = model.nodes.get(id);
    const { dim, selected, focused } = look(id);
    context.globalAlpha = dim ? 0.18 : 1;
    const colour = ofState(node.state, colours);
    const away = node.state === "offline" || node.state === "stopped";
    context.fillStyle = selected ? colours["accent-soft"] : colours.raised;
    context.strokeStyle = selected || id === model.this ? colours.accent : colours["line-strong"];
    context.lineWidth = selected || id === model.this ? Math.max(1.6, 1.4 / k) : Math.max(1, 0.7 / k);
    context.beginPath();
    if (named) context.roundRect(x - w, y - h, 2 * w, 2 * h, 8);
    else context.rect(x - w, y - h, 2 * w, 2 * h);
    context.fill();
    context.stroke();
    mark(context, x - w + (named ? 14 : 22), y, named ? 4.5 : 9, node.state, colour, away);
    if (named) {
      context.fillStyle = away ? colours.soft : colours.text;
      context.fillText(cut(context, called(node), size.width - 34), x - w + 25, y + 0.5);
    } else {
      // A stroke stands for the name.
      context.fillStyle = colours["line-strong"];
      context.fillRect(x - w + 40, y - 3, 2 * w - 56, 6);
    }
    if (focused) {
      context.strokeStyle = colours.syncing;
      context.lineWidth = Math.max(2, 2 / k);
      context.strokeRect(x - w - 4, y - h - 4, 2 * w + 8, 2 * h + 8);
    }
  }
  context.globalAlpha = 1;
}

const ofState = (state, colours) => (state === "running" || state === "online" ? colours.idle : colours[state] ?? colours.offline);

function mark(context, x, y, radius, state, colour, away) {
  context.beginPath();
  if (state === "refused") {
    context.moveTo(x, y - radius);
    context.lineTo(x + radius, y);
    context.lineTo(x, y + radius);
    context.lineTo(x - radius, y);
    context.closePath();
  } else {
    context.arc(x, y, away ? radius - 1 : radius, 0, 2 * Math.PI);
  }
  if (away) {
    context.strokeStyle = colour;
    context.lineWidth = radius / 2.2;
    context.stroke();
  } else {
    context.fillStyle = colour;
    context.fill();
  }
}

const cuts = new Map();

/** A text that is no wider than there is room, by its shape at 12 pixels or whatever the font is now. */
function cut(context, text, room) {
  const key = `${context.font}|${room}|${text}`;
  let known = cuts.get(key);
  if (known === undefined) {
    known = text;
    while (known.length > 1 && context.measureText(known).width > room) known = known.slice(0, known.endsWith("…") ? -2 : -1).concat("…");
    if (cuts.size > 5_000) cuts.clear();
    cuts.set(key, known);
  }
  return known;
}

/** The node under a point of the world. */
export function nodeAt(x, y, order, places, size) {
  const [w, h] = [size.width / 2, size.height / 2];
  for (let index = order.length - 1; index >= 0; index -= 1) {
    const place = places.get(order[index]);
    if (place && Math.abs(place.x - x) <= w && Math.abs(place.y - y) <= h) return order[index];
  }
  return undefined;
}

/** The nearest node in a direction: what lies aside counts double. */
export function nearest(from, [dx, dy], order, places) {
  const here = places.get(from);
  let best = { cost: Infinity };
  for (const id of order) {
    if (id === from) continue;
    const { x, y } = places.get(id);
    const [along, aside] = dx ? [(x - here.x) * dx, Math.abs(y - here.y)] : [(y - here.y) * dy, Math.abs(x - here.x)];
    if (along <= 1) continue;
    const cost = along + 2 * aside;
    if (cost < best.cost) best = { cost, id };
  }
  return best.id;
}
