// A course over the last minutes as a small drawing.

import { el, say, svg } from "./dom.js";

const WIDTH = 150;
const HEIGHT = 34;

/** A chart that follows `read()`, a list of values, and writes the last one with `format`. */
export function chart(title, read, format) {
  const line = svg("path", { class: "line" });
  const area = svg("path", { class: "area" });
  const now = el("span", { class: "now" });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, area, line);
  const node = el("div", { class: "chart" }, el("div", { class: "title" }, el("span", {}, title), now), drawing);
  const update = () => {
    const values = read();
    const top = Math.max(...values, 1e-9);
    const x = (index) => (values.length > 1 ? (index / (values.length - 1)) * WIDTH : WIDTH);
    const y = (value) => HEIGHT - 2 - (value / top) * (HEIGHT - 5);
    const points = values.map((value, index) => `${x(index).toFixed(1)} ${y(value).toFixed(1)}`);
    const last = values.at(-1) ?? 0;
    say(now, format(last));
    line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    area.setAttribute("d", points.length > 1 ? `M0 ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z` : "");
    drawing.setAttribute("aria-label", `${title}: now ${format(last)}, at most ${format(values.length ? Math.max(...values) : 0)}`);
  };
  update();
  return { node, update };
}
