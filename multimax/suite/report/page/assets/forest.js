// Effects in units of their margins, below one another on one axis: linear up to two margins, logarithmic beyond.

const LINEAR = 2;
const TICKS = [0, 1, 2, 5, 10, 20, 50, 100, 1000, 10000].flatMap((tick) => (tick ? [-tick, tick] : [tick]));

class Forest {
  constructor(rows) {
    const ends = rows.flatMap((row) => row.in_margins ?? []);
    const [low, high] = extent([-1.5, LINEAR, ...ends]).map(Forest.fold);
    const pad = (high - low) * 0.04;
    Object.assign(this, { low: low - pad, high: high + pad });
    this.ticks = TICKS.filter((tick) => Forest.fold(tick) > this.low && Forest.fold(tick) < this.high);
  }

  static fold(x) {
    return Math.abs(x) <= LINEAR ? x / LINEAR : Math.sign(x) * (1 + Math.log10(Math.abs(x) / LINEAR));
  }

  at(x) {
    return `${(((Forest.fold(x) - this.low) / (this.high - this.low)) * 100).toFixed(2)}%`;
  }

  // The scale behind a row: the margin as a band, zero and the ticks.
  scale(height) {
    const width = `${(parseFloat(this.at(1)) - parseFloat(this.at(-1))).toFixed(2)}%`;
    return [
      svg("rect", { class: "margin", x: this.at(-1), width, y: 0, height }),
      ...this.ticks.map((tick) => svg("line", {
        class: tick ? "grid" : "zero", x1: this.at(tick), x2: this.at(tick), y1: 0, y2: height,
      })),
    ];
  }

  labels(y) {
    return svg("g", { class: "labels" },
      ...this.ticks.map((tick) => svg("text", { x: this.at(tick), y, "text-anchor": "middle" }, plain(tick))));
  }

  axis() {
    return svg("svg", { class: "forest", height: 16, "aria-hidden": "true" }, this.labels(12));
  }

  // hollow: of a secondary comparison.
  row({ against, in_margins: of }, hollow) {
    const scale = this.scale(26);
    if (!of) return svg("svg", { class: "forest", height: 42, "aria-hidden": "true" }, ...scale, this.labels(39));
    const [mean, low, high] = of;
    const color = colorOf(against);
    const words = `effect of ${plain(mean, 2)} margins, 95% interval from ${plain(low, 2)} to ${plain(high, 2)}`;
    return svg("svg", { class: "forest", height: 42, role: "img", "aria-label": words }, ...scale, this.labels(39),
      svg("line", { class: "interval", x1: this.at(low), x2: this.at(high), y1: 13, y2: 13, style: { stroke: color } }),
      svg("svg", { x: this.at(mean), y: 13, overflow: "visible" }, marker(against, hollow, color, 0, 0, 1.3)));
  }
}
