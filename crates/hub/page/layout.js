// Where nodes stand: a hub in the middle, a tree for hierarchies and stars, a ring for a mesh, a line for a chain.
// The same nodes in the same order always get the same places; who comes later is placed after those who were there.

import { nodeOf } from "./model.js";

const GAP_X = 110;
const GAP_Y = 26;
/** More nodes than this are laid out around a root. */
const MANY = 40;

/**
 * Places, as the middle of each node, and of many nodes the fields that groups of them stand on. `sizes` maps a node to { width, height }, `tall` says that
 * there is little width.
 */
export function layout(model, order, sizes, tall) {
  const neighbours = new Map(order.map((id) => [id, new Set()]));
  const edges = [];
  for (const link of model.links.values()) {
    const [client, server] = [nodeOf(link.client), nodeOf(link.server)];
    if (!neighbours.has(client) || !neighbours.has(server) || client === server) continue;
    neighbours.get(client).add(server);
    neighbours.get(server).add(client);
    edges.push({ client, server, pattern: link.pattern });
  }
  const places = new Map();
  const groups = [];
  let left = 0;
  for (const members of components(order, neighbours)) {
    const inside = new Set(members);
    const own = edges.filter((edge) => inside.has(edge.client));
    const fields = [];
    const part = arrange(members, own, neighbours, sizes, tall, model.this, fields);
    const box = bounds(part, sizes);
    const middle = (box.top + box.bottom) / 2;
    for (const field of fields) {
      groups.push({ ...field, left: field.left - box.left + left, right: field.right - box.left + left, top: field.top - middle, bottom: field.bottom - middle });
    }
    for (const [id, { x, y }] of part) places.set(id, { x: x - box.left + left, y: y - (box.top + box.bottom) / 2 });
    left += box.right - box.left + GAP_X;
  }
  return { places, groups };
}

function components(order, neighbours) {
  const seen = new Set();
  const found = [];
  for (const start of order) {
    if (seen.has(start)) continue;
    const members = [];
    const queue = [start];
    seen.add(start);
    while (queue.length > 0) {
      const id = queue.shift();
      members.push(id);
      for (const next of neighbours.get(id)) {
        if (!seen.has(next)) {
          seen.add(next);
          queue.push(next);
        }
      }
    }
    const wanted = new Set(members);
    found.push(order.filter((id) => wanted.has(id)));
  }
  return found;
}

function arrange(members, edges, neighbours, sizes, tall, self, fields) {
  const count = (...patterns) => edges.filter((edge) => patterns.includes(edge.pattern)).length;
  const most = edges.length / 2;
  if (edges.length > 0 && count("chain") === edges.length) return line(members, edges, sizes, tall);
  if (count("hierarchical", "star") > 0 && count("hierarchical", "star") >= most) {
    if (members.length <= MANY) return tree(members, edges, sizes, tall);
    const depth = depths(members, edges);
    return clusters(members, members.find((id) => depth.get(id) === 0), neighbours, sizes, tall, fields);
  }
  if (members.length > MANY) return clusters(members, central(members, neighbours, self), neighbours, sizes, tall, fields);
  if (count("mesh") > most && members.length > 2 && members.length <= MANY) return ring(members, sizes);
  return hub(members, neighbours, sizes, tall, self);
}

/** Upstream first. */
function line(members, edges, sizes, tall) {
  const depth = depths(members, edges);
  const inOrder = [...members].sort((a, b) => depth.get(a) - depth.get(b));
  const places = new Map();
  let at = 0;
  for (const id of inOrder) {
    const { width, height } = sizes.get(id);
    const length = tall ? height : width;
    places.set(id, tall ? { x: 0, y: at + length / 2 } : { x: at + length / 2, y: 0 });
    at += length + (tall ? 70 : GAP_X);
  }
  return places;
}

/** Parents above their children; with little width, left of them. */
function tree(members, edges, sizes, tall) {
  const depth = depths(members, edges);
  const levels = [];
  for (const id of members) (levels[depth.get(id)] ??= []).push(id);
  const parents = (id) => edges.filter((edge) => edge.client === id).map((edge) => edge.server);
  const places = new Map();
  let across = 0;
  for (const level of levels.filter(Boolean)) {
    const anchor = (id) => {
      const above = parents(id).map((parent) => places.get(parent)).filter(Boolean);
      return above.length ? above.reduce((sum, place) => sum + (tall ? place.y : place.x), 0) / above.length : 0;
    };
    const inOrder = level.map((id, index) => ({ id, index, anchor: anchor(id) })).sort((a, b) => a.anchor - b.anchor || a.index - b.index);
    const length = (id) => (tall ? sizes.get(id).height + GAP_Y : sizes.get(id).width + 36);
    let at = -inOrder.reduce((sum, { id }) => sum + length(id), 0) / 2;
    const thick = Math.max(...level.map((id) => (tall ? sizes.get(id).width : sizes.get(id).height)));
    for (const { id } of inOrder) {
      const middle = at + length(id) / 2;
      places.set(id, tall ? { x: across + thick / 2, y: middle } : { x: middle, y: across + thick / 2 });
      at += length(id);
    }
    across += thick + 90;
  }
  return places;
}

/** How far each node is below the nodes that connect to nobody. */
function depths(members, edges) {
  const depth = new Map(members.map((id) => [id, 0]));
  for (let round = 0; round < members.length; round += 1) {
    let moved = false;
    for (const { client, server } of edges) {
      if (depth.get(client) < depth.get(server) + 1 && depth.get(server) + 1 < members.length) {
        depth.set(client, depth.get(server) + 1);
        moved = true;
      }
    }
    if (!moved) break;
  }
  return depth;
}

function ring(members, sizes) {
  const around = members.reduce((sum, id) => sum + Math.hypot(sizes.get(id).width, sizes.get(id).height) + 30, 0);
  const radius = Math.max(around / (2 * Math.PI), 170);
  const place = (index) => {
    const angle = (index / members.length) * 2 * Math.PI - Math.PI / 2;
    return { x: Math.cos(angle) * radius * 1.2, y: Math.sin(angle) * radius };
  };
  return new Map(members.map((id, index) => [id, place(index)]));
}

/** Who has the most neighbours. */
function central(members, neighbours, self) {
  const rank = (id) => neighbours.get(id).size + (id === self ? 0.5 : 0);
  return members.reduce((best, id) => (rank(id) > rank(best) ? id : best));
}

function hub(members, neighbours, sizes, tall, self) {
  const middle = central(members, neighbours, self);
  const others = members.filter((id) => id !== middle);
  const places = new Map([[middle, { x: 0, y: 0 }]]);
  if (others.length > 14) return fan(members, middle, neighbours, sizes);
  const sides = tall ? [[], others] : [others.filter((_, index) => index % 2 === 1), others.filter((_, index) => index % 2 === 0)];
  sides.forEach((side, which) => {
    const height = side.reduce((sum, id) => sum + sizes.get(id).height + GAP_Y, -GAP_Y);
    let y = -height / 2;
    for (const id of side) {
      const { width, height: own } = sizes.get(id);
      const x = sizes.get(middle).width / 2 + (tall ? 64 : GAP_X) + width / 2;
      places.set(id, { x: which === 0 ? -x : x, y: y + own / 2 });
      y += own + GAP_Y;
    }
  });
  return places;
}

/** Who hangs on whom, from a root; and all in the order in which they are found. */
function spanned(members, root, neighbours) {
  const seen = new Set([root]);
  const children = new Map(members.map((id) => [id, []]));
  const rank = new Map(members.map((id, index) => [id, index]));
  const found = [root];
  for (const id of found) {
    const next = [...neighbours.get(id)].filter((other) => !seen.has(other)).sort((a, b) => rank.get(a) - rank.get(b));
    for (const other of next) {
      seen.add(other);
      children.get(id).push(other);
      found.push(other);
    }
  }
  return { children, found };
}

/**
 * Many nodes: whoever others hang on stands in the middle of a field with them, and the fields stand around the
 * root's. There is some room to grow, so that one more node does not move all others.
 */
function clusters(members, root, neighbours, sizes, tall, fields) {
  const { children, found } = spanned(members, root, neighbours);
  const aspect = tall ? 0.6 : 1.75;
  const [width, height] = [0, 1].map((which) => Math.max(...members.map((id) => Object.values(sizes.get(id))[which])));
  const heads = found.filter((id) => id === root || children.get(id).length > 0);
  const blocks = heads.map((id) => ({ id, own: children.get(id).filter((child) => children.get(child).length === 0) }));
  // The root's field has those who hang on it alone.
  const roomy = (count) => Math.ceil(count * 1.05 + 1);
  const cell = { width: width + 14, height: height + 16 };
  const grids = new Map(blocks.map(({ id, own }) => [id, cells(roomy(own.length), cell, aspect)]));
  const span = (grid) => ({ width: 2 * Math.max(...grid.map(([x]) => Math.abs(x))) + cell.width, height: 2 * Math.max(...grid.map(([, y]) => Math.abs(y))) + cell.height });
  const spans = blocks.map(({ id }) => span(grids.get(id)));
  const rest = spans.slice(1);
  const block = { width: Math.max(cell.width, ...rest.map((one) => one.width)) + 70, height: Math.max(cell.height, ...rest.map((one) => one.height)) + 80 };
  const places = new Map();
  // A root with a large field of its own pushes the others out.
  const middle = spans[0];
  const inside = (x, y) => Math.abs(x) < (middle.width + block.width) / 2 - 1 && Math.abs(y) < (middle.height + block.height) / 2 - 1;
  const around = cells(blocks.length * 2 + 4 + Math.ceil((middle.width * middle.height) / (block.width * block.height)) * 4, block, aspect).filter(([x, y]) => !inside(x, y));
  blocks.forEach(({ id, own }, index) => {
    const [x, y] = index === 0 ? [0, 0] : around[index - 1] ?? [0, index * block.height];
    const grid = grids.get(id);
    places.set(id, { x, y });
    own.forEach((child, at) => places.set(child, { x: x + grid[at + 1][0], y: y + grid[at + 1][1] }));
    if (own.length === 0 || blocks.length === 1) return;
    const { width: w, height: h } = spans[index];
    fields.push({ id, count: own.length + 1, left: x - w / 2 - 8, right: x + w / 2 + 8, top: y - h / 2 - 8, bottom: y + h / 2 + 8 });
  });
  return places;
}

/** The first cells of a grid, from its middle outwards. */
function cells(count, { width, height }, aspect) {
  const reach = Math.ceil(Math.sqrt(count * Math.max((aspect * height) / width, width / (aspect * height)))) + 2;
  const all = [];
  for (let row = -reach; row <= reach; row += 1) {
    for (let column = -reach; column <= reach; column += 1) all.push([column * width, row * height]);
  }
  const far = ([x, y]) => Math.hypot(x / aspect, y);
  // Of those that are equally far, the order is fixed.
  return all.sort((a, b) => far(a) - far(b) || a[1] - b[1] || a[0] - b[0]).slice(0, count);
}

/**
 * Around a root, each branch in a sector of its own, as wide as it has leaves, and in as many rows as it takes.
 * Everything is as much wider than high as cards are.
 */
function fan(members, root, neighbours, sizes) {
  const { children, found } = spanned(members, root, neighbours);
  const leaves = new Map();
  for (const id of [...found].reverse()) leaves.set(id, Math.max(1, children.get(id).reduce((sum, child) => sum + leaves.get(child), 0)));
  const [width, height] = [0, 1].map((which) => Math.max(...members.map((id) => Object.values(sizes.get(id))[which])));
  const stretch = Math.max((width + 12) / (height + 18), 1.2);
  const row = height + 18;
  // High cards meet at the corners of their rows first.
  const loose = height > 40 ? 1.25 : 1.05;
  const places = new Map();
  const put = (id, radius, angle) => places.set(id, { x: Math.cos(angle) * radius * stretch, y: Math.sin(angle) * radius });
  put(root, 0, 0);
  const spread = (id, radius, from, to) => {
    const own = children.get(id);
    const [twigs, branches] = [own.filter((child) => leaves.get(child) === 1 && children.get(child).length === 0), own.filter((child) => children.get(child).length > 0)];
    const all = leaves.get(id);
    let angle = from;
    for (const child of branches) {
      const share = ((to - from) * leaves.get(child)) / all;
      put(child, radius, angle + share / 2);
      spread(child, radius + row * 1.6, angle, angle + share);
      angle += share;
    }
    let at = radius;
    for (let start = 0; start < twigs.length; at += row * loose) {
      const room = Math.max(1, Math.floor(((to - angle) * at) / (row * loose)));
      const now = twigs.slice(start, start + room);
      now.forEach((child, index) => put(child, at, angle + ((index + 0.5) / now.length) * (to - angle)));
      start += now.length;
    }
  };
  spread(root, row * 2.6, -Math.PI / 2, 1.5 * Math.PI);
  return places;
}

/** The box around places. */
export function bounds(places, sizes) {
  const box = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (const [id, { x, y }] of places) {
    const { width, height } = sizes.get(id);
    box.left = Math.min(box.left, x - width / 2);
    box.right = Math.max(box.right, x + width / 2);
    box.top = Math.min(box.top, y - height / 2);
    box.bottom = Math.max(box.bottom, y + height / 2);
  }
  return places.size ? box : { left: 0, right: 1, top: 0, bottom: 1 };
}
