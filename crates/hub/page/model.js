// What the node has told: the graph, and how its figures went over the last minutes.
// Events: "shape" when nodes, databases, links or their states have changed, "figures" when only figures have.

const KEPT = 300;
const LISTS = ["nodes", "databases", "links"];

/** Figures of which a course is kept. */
const COURSES = {
  nodes: ["ops_per_s", "lag_ms"],
  databases: ["ops_per_s"],
  links: ["bytes_sent_per_s", "bytes_received_per_s", "changes_sent_per_s", "changes_received_per_s", "lag_ms", "pending"],
};

export class Model extends EventTarget {
  constructor() {
    super();
    this.nodes = new Map();
    this.databases = new Map();
    this.links = new Map();
    this.this = "";
    this.at = 0;
    this.courses = new Map();
    this.ticks = 0;
  }

  /** Takes the whole graph. */
  take(snapshot) {
    this.this = snapshot.this;
    this.at = snapshot.at_ms;
    for (const list of LISTS) this[list] = new Map(snapshot[list].map((item) => [item.id, item]));
    this.tell("shape");
  }

  /** Takes what has changed. */
  change(change) {
    this.at = change.at_ms;
    let shape = change.gone.length > 0;
    for (const list of LISTS) {
      for (const item of change[list]) {
        this[list].set(item.id, item);
        shape = true;
      }
      for (const id of change.gone) this[list].delete(id);
    }
    for (const [id, figures] of Object.entries(change.figures)) {
      const item = this.nodes.get(id) ?? this.databases.get(id) ?? this.links.get(id);
      if (item) item.figures = figures;
    }
    for (const id of change.gone) this.courses.delete(id);
    this.tell(shape ? "shape" : "figures");
  }

  /** Once a second: notes where every figure stands. */
  tick() {
    this.ticks += 1;
    for (const list of LISTS) {
      for (const item of this[list].values()) {
        for (const name of COURSES[list]) this.note(item.id, name, item.figures[name] ?? 0);
      }
    }
  }

  note(id, name, value) {
    let course = this.courses.get(id)?.[name];
    if (!course) {
      // Most links are quiet: they take no room until something happens.
      if (!value) return;
      const known = this.courses.get(id) ?? {};
      course = known[name] = new Float32Array(KEPT);
      this.courses.set(id, known);
    }
    course[this.ticks % KEPT] = value;
  }

  /** How a figure went, oldest first: seconds since the page was opened, at most five minutes. */
  course(id, name) {
    const course = this.courses.get(id)?.[name];
    const length = Math.min(this.ticks, KEPT);
    const values = new Array(length).fill(0);
    if (course) for (let back = 0; back < length; back += 1) values[length - 1 - back] = course[(this.ticks - back) % KEPT];
    return values;
  }

  databasesOf(node) {
    const own = [...this.databases.values()].filter((database) => database.node === node);
    return own.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  linksOf(database) {
    return [...this.links.values()].filter((link) => link.client === database || link.server === database);
  }

  linksOfNode(node) {
    return [...this.links.values()].filter((link) => nodeOf(link.client) === node || nodeOf(link.server) === node);
  }

  names() {
    return [...new Set([...this.databases.values()].map((database) => database.name))].sort();
  }

  tell(what) {
    this.dispatchEvent(new Event(what));
  }
}

/** The node of a database's id. */
export const nodeOf = (database) => database.slice(0, database.lastIndexOf("/"));
export const nameOf = (database) => database.slice(database.lastIndexOf("/") + 1);
