// A plot of one experiment's lines. Dragging selects a range, the wheel zooms once the plot has the focus (or with Ctrl),
// a double click shows all; the arrow keys move a cursor, + and - zoom around it, Escape shows all.

const MARGIN = { left: 54, right: 20, top: 12, bottom: 38 };

class Plot {
  // onzoom(range or null) is called when the reader has chosen another range of x.
  constructor(name, onzoom) {
    this.name = name;
    this.onzoom = onzoom;
    this.lines = [];
    this.cursor = null;
    this.svg = svg("svg", {
      class: "plot", tabindex: 0, role: "application", "aria-label": `Curves of ${name}`,
      "aria-description": "Arrow keys move along the curves, plus and minus zoom, Escape shows all",
      onpointerdown: (event) => this.press(event), onpointermove: (event) => this.move(event),
      onpointerup: (event) => this.release(event), onpointercancel: () => this.leave(),
      onpointerleave: () => this.leave(), ondblclick: () => this.onzoom(null),
      onkeydown: (event) => this.key(event), onblur: () => this.leave(),
    });
    this.svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.tip = h("div", { class: "tip", role: "status", hidden: true });
    this.element = h("div", { class: "plot-box" }, this.svg, this.tip);
  }

  // lines as linesOf gives them; each: every run separately; once: the step at which all lines have their only point.
  show({ lines, each, once, zoom, logX, logY, xTitle, height }) {
    const usable = (point) => (!logX || once !== null || point.x > 0) && (!logY || point.mean > 0);
    Object.assign(this, { once, logY, height, zoom: once === null ? zoom : undefined, logX: logX && once === null });
    this.xTitle = once === null ? xTitle : `evaluated once, at step ${once}`;
    this.lines = lines.map((line) => ({
      ...line,
      points: line.points.filter(usable),
      paths: (each ? line.each : [line.points]).map((points) => points.filter(usable)),
    }));
    this.each = each;
    this.draw();
  }

  draw() {
    const width = this.width = Math.max(240, this.element.clientWidth || 480);
    const points = this.lines.flatMap((line) => line.paths.flat());
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", this.height);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.svg.replaceChildren();
    this.leave();
    if (!points.length) return;
    const ends = extent(points.map((p) => p.x));
    this.full = this.padded(...ends, this.logX, this.once === null ? 0.015 : 0.2);
    const [x0, x1] = this.zoom ?? this.full;
    const [y0, y1] = this.rangeOfY(x0, x1);
    this.x = new Scale(x0, x1, MARGIN.left, width - MARGIN.right, this.logX);
    this.y = new Scale(y0, y1, this.height - MARGIN.bottom, MARGIN.top, this.logY);
    const clip = `clip-${this.name.replace(/[^\w-]/g, "_")}`;
    const inner = svg("g", { "clip-path": `url(#${clip})` });
    this.groups = this.lines.map((line) => this.drawLine(line));
    inner.append(...this.groups);
    this.rule = svg("line", { class: "rule", y1: MARGIN.top, y2: this.height - MARGIN.bottom, visibility: "hidden" });
    this.dots = svg("g", {});
    const [wide, high] = [width - MARGIN.left - MARGIN.right, this.height - MARGIN.top - MARGIN.bottom];
    this.brush = svg("rect", { class: "brush", y: MARGIN.top, height: high, visibility: "hidden" });
    const seen = { x: MARGIN.left - 7, y: MARGIN.top - 6, width: wide + 14, height: high + 12 };
    this.svg.append(
      svg("clipPath", { id: clip }, svg("rect", seen)), this.axes(width), inner, this.rule, this.dots, this.brush);
  }

  padded(low, high, log, share = 0.05) {
    if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** share, high * (high / low) ** share];
    const pad = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * share;
    return [low - pad, high + pad];
  }

  // The range of what is seen of the lines between x0 and x1, the next points outside included.
  rangeOfY(x0, x1) {
    let [low, high] = [Infinity, -Infinity];
    for (const points of this.lines.flatMap((line) => line.paths)) {
      points.forEach((point, i) => {
        const seen = point.x >= x0 && point.x <= x1;
        const enters = points[i + 1]?.x >= x0 && point.x < x0;
        const leaves = points[i - 1]?.x <= x1 && point.x > x1;
        if (!seen && !enters && !leaves) return;
        low = Math.min(low, seen && this.positive(point.low) ? point.low : point.mean);
        high = Math.max(high, seen ? point.high ?? point.mean : point.mean);
      });
    }
    return low > high ? [0, 1] : this.padded(low, high, this.logY);
  }

  positive(value) {
    return value !== undefined && (!this.logY || value > 0);
  }

  drawLine(line) {
    const color = colorOf(line.attention, line.index);
    const group = svg("g", { class: "line" });
    const at = (p) => `${this.x.at(p.x).toFixed(1)},${this.y.at(p.mean).toFixed(1)}`;
    if (!this.each && line.runs.length > 1 && state.spread !== "none") {
      const edge = (value) => this.y.at(this.positive(value) ? value : this.y.low).toFixed(1);
      const upper = line.points.map((p) => `${this.x.at(p.x).toFixed(1)},${edge(p.high)}`);
      const lower = line.points.map((p) => `${this.x.at(p.x).toFixed(1)},${edge(p.low)}`).reverse();
      group.append(this.once === null
        ? svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z`, style: { fill: color } })
        : svg("path", { class: "curve whisker", d: `M${upper[0]}L${lower[0]}`, style: { stroke: color } }));
    }
    for (const points of line.paths) {
      const width = this.each ? 1.2 : 2;
      const dashes = dashesOf(line.attention, line.index, width) || "none";
      const style = { stroke: color, "stroke-width": `${width}px`, "stroke-dasharray": dashes };
      const d = points.length ? `M${points.map(at).join("L")}` : "";
      group.append(svg("path", { class: "curve", d, style }), ...this.markersOf(points, line));
    }
    return group;
  }

  // At each point of a short curve, else at about six of those that are seen, at other ones for each line.
  markersOf(points, line) {
    const seen = points.filter((p) => p.x >= this.x.low && p.x <= this.x.high);
    const stride = seen.length > 12 ? Math.ceil(seen.length / 6) : 1;
    const shift = stride > 1 ? Math.floor((stride * ((this.lines.indexOf(line) * 3) % 7)) / 7) : 0;
    return seen.filter((_, i) => i % stride === shift).map((p) => this.mark(line, p));
  }

  mark(line, point) {
    const { attention, index } = line;
    return marker(attention, index % 2 === 1, colorOf(attention, index), this.x.at(point.x), this.y.at(point.mean));
  }

  axes(width) {
    const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, this.height - MARGIN.bottom];
    const group = svg("g", { class: "axes" });
    for (const tick of this.y.ticks(5)) {
      const y = this.y.at(tick);
      group.append(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
        svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, plain(tick)));
    }
    for (const tick of this.once !== null ? [] : this.x.ticks(Math.max(4, Math.floor(width / 90)))) {
      const x = this.x.at(tick);
      group.append(svg("line", { class: "tick", x1: x, x2: x, y1: bottom, y2: bottom + 5 }),
        svg("text", { x, y: bottom + 18, "text-anchor": "middle" }, plain(tick)));
    }
    group.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
      svg("text", { class: "axis-title", x: right, y: this.height - 4, "text-anchor": "end" }, this.xTitle));
    return group;
  }

  // What the reader does

  place(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.width) / box.width;
    return Math.min(this.width - MARGIN.right, Math.max(MARGIN.left, x));
  }

  press(event) {
    if (!this.x || event.button || this.once !== null) return;
    this.from = this.place(event);
    this.svg.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.x) return;
    const to = this.place(event);
    if (this.from !== undefined && Math.abs(to - this.from) > 4) {
      this.tip.hidden = true;
      const at = { x: Math.min(this.from, to), width: Math.abs(to - this.from), visibility: "visible" };
      for (const [name, value] of Object.entries(at)) this.brush.setAttribute(name, value);
    } else {
      this.point(this.x.invert(to));
    }
  }

  release(event) {
    const [from, to] = [this.from, this.place(event)];
    this.from = undefined;
    if (from === undefined || Math.abs(to - from) <= 4) return;
    this.onzoom([this.x.invert(Math.min(from, to)), this.x.invert(Math.max(from, to))]);
  }

  leave() {
    this.from = undefined;
    this.cursor = null;
    this.tip.hidden = true;
    for (const part of [this.rule, this.brush]) part?.setAttribute("visibility", "hidden");
    this.dots?.replaceChildren();
  }

  wheel(event) {
    if (!this.x || !(event.ctrlKey || document.activeElement === this.svg)) return;
    event.preventDefault();
    this.scaleAround(this.x.invert(this.place(event)), Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 200));
  }

  scaleAround(center, factor) {
    if (this.once !== null) return;
    const { of, back, low, high } = this.x;
    const [a, c, b] = [of(low), of(center), of(high)];
    const [min, max] = this.full.map(of);
    const range = [Math.max(min, c - (c - a) * factor), Math.min(max, c + (b - c) * factor)];
    if (range[1] - range[0] < (max - min) / 1000) return;
    this.onzoom(range[0] <= min && range[1] >= max ? null : range.map(back));
  }

  key(event) {
    if (!this.x) return;
    const all = this.lines.flatMap((line) => line.paths.flat().map((p) => p.x)).sort((a, b) => a - b);
    const xs = all.filter((x) => x >= this.x.low && x <= this.x.high);
    const center = this.cursor ?? (this.x.low + this.x.high) / 2;
    if (event.key === "Escape") this.onzoom(null);
    else if (event.key === "+" || event.key === "=") this.scaleAround(center, 0.7);
    else if (event.key === "-") this.scaleAround(center, 1 / 0.7);
    else if (event.key === "ArrowRight") this.point(xs.find((x) => x > (this.cursor ?? -Infinity)) ?? xs.at(-1));
    else if (event.key === "ArrowLeft") this.point(xs.findLast((x) => x < (this.cursor ?? Infinity)) ?? xs[0]);
    else return;
    event.preventDefault();
  }

  // Show the values at the step nearest to x.
  point(x) {
    const paths = this.lines.flatMap((line) => line.paths.map((points, i) => ({ line, i, point: nearest(points, x) })));
    const found = paths.filter(({ point }) => point);
    if (x === undefined || !found.length) return;
    const best = found.reduce((a, b) => (Math.abs(b.point.x - x) < Math.abs(a.point.x - x) ? b : a)).point;
    const near = this.once !== null ? Infinity : Math.abs(this.x.invert(this.x.at(best.x) + 6) - best.x);
    const rows = found.filter(({ line, i, point }) => {
      const points = line.paths[i];
      const reaches = points[0].x - near <= best.x && best.x <= points.at(-1).x + near;
      return reaches && point.x >= this.x.low - near && point.x <= this.x.high + near;
    });
    this.cursor = best.x;
    const at = this.x.at(best.x);
    for (const name of ["x1", "x2"]) this.rule.setAttribute(name, at);
    this.rule.setAttribute("visibility", "visible");
    rows.sort((a, b) => b.point.mean - a.point.mean);
    this.dots.replaceChildren(...rows.map(({ line, point }) => this.mark(line, point)));
    this.tip.replaceChildren(this.readings(best, rows));
    this.tip.hidden = false;
    // Below the plot, where it hides the legend and no curve; above it where the window ends.
    const { top, bottom } = this.svg.getBoundingClientRect();
    const below = bottom + this.tip.offsetHeight <= innerHeight || top < this.tip.offsetHeight;
    const room = this.element.clientWidth - this.tip.offsetWidth;
    this.tip.style.setProperty("left", `${Math.max(0, Math.min(room, at - this.tip.offsetWidth / 2))}px`);
    this.tip.style.setProperty("top", `${below ? this.height : -this.tip.offsetHeight}px`);
  }

  readings(best, rows) {
    const shown = rows.slice(0, 14);
    const left = rows.length - shown.length;
    const step = (point) => `step ${plain(point.step, 7)}`;
    const bySteps = this.xTitle === X_TITLE.step || this.once !== null;
    const row = ({ line, i, point }) => {
      const label = this.each ? `${line.label}, seed ${line.runs[i].seed}` : line.label;
      const own = this.xTitle === X_TITLE.time || point.step !== best.step ? step(point) : "";
      return h("tr", {}, h("th", { scope: "row" }, swatch(line.attention, line.index), ...breakable(label)),
        h("td", {}, digits(point.mean, 5)),
        h("td", { class: "spread" }, [spreadText(point), own].filter(Boolean).join(", ")));
    };
    return h("table", {}, h("caption", {}, bySteps ? step(best) : `${plain(best.x)} ${this.xTitle}`),
      h("tbody", {}, ...shown.map(row)),
      left ? h("tfoot", {}, h("tr", {}, h("td", { colspan: 3 }, `and ${left} more`))) : null);
  }

  // Let one line stand out, or with null none.
  highlight(line) {
    this.groups?.forEach((group, i) => group.classList.toggle("dim", line !== null && i !== line));
  }
}

function nearest(points, x) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point.x - x) < Math.abs(best.x - x)) best = point;
  return best;
}

function spreadText({ low, high, sd, n }) {
  if (n < 2) return "";
  if (sd !== undefined) return `± ${digits(sd, 2)} (n=${n})`;
  return low === high ? `(n=${n})` : `${digits(low, 4)} – ${digits(high, 4)} (n=${n})`;
}
