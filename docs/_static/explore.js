// The two drawings of explained/trade-off: three scores on a simplex, and a row of attention over tokens.
"use strict";

// As in the figures of results/; tests/test_docs.py holds that they are.
const STYLES = {
  softmax: ["softmax", "#000000"],
  temperature: ["learned temperature", "#7B4B2A"],
  sparsemax: ["sparsemax", "#0072B2"],
  entmax15: ["1.5-entmax", "#56B4E9"],
  evsoftmax: ["ev-softmax", "#CC79A7"],
  multimax: ["MultiMax", "#D55E00"],
};
const SVG = "http://www.w3.org/2000/svg";
const colour = (name) => (name === "softmax" ? "currentColor" : STYLES[name][1]);
const digits = (value) => (Number.isNaN(value) ? "–" : value.toFixed(3));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

function html(parent, tag, attributes = {}, text) {
  const element = Object.assign(document.createElement(tag), attributes);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

function canvas(parent, title, width, height) {
  const figure = html(parent, "figure");
  html(figure, "figcaption", {}, title);
  const svg = draw(figure, "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  return svg;
}

// A handle for mouse, finger and arrow keys. `moved` takes a point of the drawing, `nudged` steps to the right and up.
function handle(svg, shape, label, moved, nudged) {
  shape.setAttribute("tabindex", "0");
  shape.setAttribute("role", "slider");
  shape.setAttribute("aria-label", label);
  shape.classList.add("handle");
  const point = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  shape.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    shape.focus();
    shape.setPointerCapture(event.pointerId);
  });
  shape.addEventListener("pointermove", (event) => {
    if (shape.hasPointerCapture(event.pointerId)) moved(point(event));
  });
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  shape.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    nudged(...step.map((value) => value * (event.shiftKey ? 10 : 1)));
  });
}

function slider(parent, label, [low, high, step], get, set, changed) {
  const row = html(parent, "label");
  html(row, "span", {}, label);
  const input = html(row, "input", { type: "range", min: low, max: high, step });
  const output = html(row, "output");
  input.addEventListener("input", () => {
    set(Number(input.value));
    changed();
  });
  return () => {
    input.value = get();
    output.textContent = get().toFixed(2);
  };
}

function weightsOf(state) {
  return Object.fromEntries(Object.keys(STYLES).map((name) => [name, WEIGHTS[name](state.x, state)]));
}

function threeScores(root) {
  const state = {
    x: [2, 1.4, -1], temperature: 0.5, alpha: 1.5, threshold: 0,
    ranges: [0, 1, 0, 1], ts: [-1, -0.9, 0, 0],
  };
  const drawings = html(root, "div", { className: "drawings" });
  const updates = [];
  const changed = () => {
    const weights = weightsOf(state);
    for (const update of updates) update(weights);
  };
  updates.push(simplex(drawings, state, changed), plane(drawings, state), modulator(drawings, state, changed));
  updates.push(table(drawings, state));
  const controls = html(root, "div", { className: "controls" });
  const add = (label, range, get, set) => updates.push(slider(controls, label, range, get, set, changed));
  state.x.forEach((_, i) => add(`score ${i + 1}`, [-6, 6, 0.01], () => state.x[i], (value) => (state.x[i] = value)));
  add("temperature", [0.05, 4, 0.01], () => state.temperature, (value) => (state.temperature = value));
  add("relevant above", [-6, 6, 0.01], () => state.threshold, (value) => (state.threshold = value));
  ["slope below r₀: t₀", "slope above r₁: t₁", "curvature below r₂: t₂", "curvature above r₃: t₃"].forEach((label, i) =>
    add(label, [-2, 2, 0.01], () => state.ts[i], (value) => (state.ts[i] = value)),
  );
  changed();
}

const SIDE = 300;
const HEIGHT = (SIDE * Math.sqrt(3)) / 2;
const CORNERS = [[20, 20 + HEIGHT], [20 + SIDE, 20 + HEIGHT], [20 + SIDE / 2, 20]];
const onSimplex = (p) => [0, 1].map((axis) => sum(p.map((value, i) => value * CORNERS[i][axis])));

function simplex(parent, state, changed) {
  const svg = canvas(parent, "The weights of three scores: drag the ring", SIDE + 40, HEIGHT + 50);
  draw(svg, "polygon", { points: CORNERS.join(" "), class: "frame" });
  [["middle", 18], ["middle", 18], ["middle", -8]].forEach(([anchor, below], i) =>
    draw(svg, "text", { x: CORNERS[i][0], y: CORNERS[i][1] + below, "text-anchor": anchor }, `all on ${i + 1}`),
  );
  const path = draw(svg, "path", { class: "path" });
  const dots = Object.fromEntries(
    Object.keys(STYLES).map((name) => [name, draw(svg, "circle", { r: 5, fill: colour(name) })]),
  );
  const ring = draw(svg, "circle", { r: 11 });
  const from = (p) => {
    const logs = p.map((value) => Math.log(Math.max(value, 2.5e-3)));
    const shift = sum(state.x) / 3 - sum(logs) / 3;
    state.x = logs.map((value) => clamp(value + shift, -6, 6));
    changed();
  };
  const moved = ({ x, y }) => {
    const third = clamp((CORNERS[0][1] - y) / HEIGHT, 0, 1);
    const second = clamp((x - CORNERS[0][0]) / SIDE - third / 2, 0, 1 - third);
    from([1 - second - third, second, third]);
  };
  handle(svg, ring, "softmax's weights", moved, (right, up) => {
    const [x, y] = onSimplex(WEIGHTS.softmax(state.x));
    moved({ x: x + 3 * right, y: y - 3 * up });
  });
  return (weights) => {
    const temperatures = Array.from({ length: 61 }, (_, i) => 0.05 * 400 ** (i / 60));
    const along = temperatures.map((temperature) => onSimplex(WEIGHTS.temperature(state.x, { temperature })));
    path.setAttribute("d", `M${along.map((point) => point.join(",")).join("L")}`);
    for (const [name, dot] of Object.entries(dots)) {
      const [x, y] = onSimplex(weights[name]);
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
    }
    const [x, y] = onSimplex(weights.softmax);
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    ring.setAttribute("aria-valuetext", weights.softmax.map(digits).join(", "));
  };
}

// What no other point equals or exceeds in both coordinates and exceeds in one, by the first coordinate.
function front(points) {
  const best = [];
  for (const point of [...points].sort((a, b) => b[0] - a[0] || b[1] - a[1]))
    if (!best.length || point[1] > best[best.length - 1][1]) best.push(point);
  return best.reverse();
}

function plane(parent, state) {
  const svg = canvas(parent, "Sparsity and multi-modality; dashed: the Pareto front", 340, 310);
  const at = ([s, m]) => [40 + 280 * s, 260 - 240 * m];
  draw(svg, "path", { d: "M40,20V260H320", class: "frame" });
  draw(svg, "text", { x: 180, y: 300, "text-anchor": "middle" }, "sparsity S");
  draw(svg, "text", { x: -140, y: 14, "text-anchor": "middle", transform: "rotate(-90)" }, "multi-modality M");
  for (const value of [0, 0.5, 1]) {
    draw(svg, "text", { x: at([value, 0])[0], y: 278, "text-anchor": "middle" }, value);
    draw(svg, "text", { x: 34, y: at([0, value])[1] + 4, "text-anchor": "end" }, value);
  }
  const path = draw(svg, "path", { class: "path" });
  const best = draw(svg, "path", { class: "front" });
  const dots = Object.fromEntries(
    Object.keys(STYLES).map((name) => [name, draw(svg, "circle", { r: 5, fill: colour(name) })]),
  );
  return (weights) => {
    const point = (p) => [sparsity(state.x, p, state.threshold), multiModality(state.x, p, state.threshold)];
    const drawn = (points) => `M${points.map((each) => at(each).join(",")).join("L")}`;
    const temperatures = Array.from({ length: 61 }, (_, i) => 0.05 * 400 ** (i / 60));
    const along = temperatures.map((temperature) => point(WEIGHTS.temperature(state.x, { temperature })));
    const defined = !along.flat().some(Number.isNaN);
    svg.classList.toggle("undefined", !defined);
    path.setAttribute("d", defined ? drawn(along) : "");
    for (const [name, dot] of Object.entries(dots)) {
      const [x, y] = defined ? at(point(weights[name])) : [-99, -99];
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
    }
    best.setAttribute("d", defined ? drawn(front(Object.values(weights).map(point))) : "");
  };
}

function modulator(parent, state, changed) {
  const svg = canvas(parent, "SegLU, which bends the scores: drag its knees", 340, 310);
  const at = (x, y) => [170 + 25 * x, 150 - 20 * clamp(y, -7, 7)];
  draw(svg, "path", { d: "M20,150H320M170,10V290", class: "frame" });
  draw(svg, "path", { d: `M${at(-6, -6)}L${at(6, 6)}`, class: "path" });
  draw(svg, "text", { x: 320, y: 168, "text-anchor": "end" }, "score");
  draw(svg, "text", { x: 178, y: 18 }, "bent score");
  const curve = draw(svg, "path", { class: "curve", stroke: colour("multimax") });
  const marks = state.x.map(() => draw(svg, "circle", { r: 4, fill: "currentColor" }));
  const knees = state.ranges.map((_, i) => {
    const knee = draw(svg, "rect", { width: 14, height: 14, fill: colour("multimax") });
    const label = draw(svg, "text", { "text-anchor": "middle" }, `r${"₀₁₂₃"[i]}`);
    const set = (value) => {
      state.ranges[i] = clamp(value, -6, 6);
      changed();
    };
    handle(svg, knee, `r${i}`, ({ x }) => set((x - 170) / 25), (right) => set(state.ranges[i] + right / 10));
    return [knee, label];
  });
  return () => {
    const bent = (x) => seglu(x, state.ranges, state.ts);
    const xs = Array.from({ length: 121 }, (_, i) => -6 + i / 10);
    curve.setAttribute("d", `M${xs.map((x) => at(x, bent(x)).join(",")).join("L")}`);
    marks.forEach((mark, i) => {
      const [x, y] = at(state.x[i], bent(state.x[i]));
      mark.setAttribute("cx", x);
      mark.setAttribute("cy", y);
    });
    knees.forEach(([knee, label], i) => {
      const [x] = at(state.ranges[i], 0);
      const y = i < 2 ? 150 : 270; // the first-order pair on the axis, the second-order pair below
      knee.setAttribute("x", x - 7);
      knee.setAttribute("y", y - 7);
      knee.setAttribute("aria-valuetext", state.ranges[i].toFixed(2));
      label.setAttribute("x", x);
      label.setAttribute("y", y + 22);
    });
  };
}

function table(parent, state) {
  const figure = html(parent, "figure");
  html(figure, "figcaption", {}, "The same in numbers");
  const rows = html(html(figure, "table"), "tbody");
  const head = html(rows, "tr");
  for (const title of ["", "1", "2", "3", "S", "M"]) html(head, "th", {}, title);
  const cells = Object.fromEntries(
    Object.entries(STYLES).map(([name, [label]]) => {
      const row = html(rows, "tr");
      const title = html(row, "th");
      html(title, "span", { className: "swatch" }).style.background = colour(name);
      title.append(label);
      return [name, Array.from({ length: 5 }, () => html(row, "td"))];
    }),
  );
  return (weights) => {
    for (const [name, p] of Object.entries(weights)) {
      const measures = [sparsity(state.x, p, state.threshold), multiModality(state.x, p, state.threshold)];
      [...p, ...measures].forEach((value, i) => {
        cells[name][i].textContent = digits(value);
        cells[name][i].classList.toggle("zero", value === 0);
      });
    }
  };
}

function tokens(root) {
  const words = ["The", "cat", "that", "the", "dogs", "chased", "slept", "on", "the", "warm", "mat", "."];
  const state = {
    x: [-1.2, 2.1, -0.4, -1, 1.7, 1.2, 0.1, -0.8, -1.1, -0.3, 0.6, -1.6],
    temperature: 0.5, alpha: 1.5, ranges: [0.4, 1.4, 0, 1], ts: [-2, -0.9, 0, 0],
  };
  const width = 44 * words.length + 134;
  const svg = canvas(root, "Attention of “slept”: drag the scores", width, 150 + 62 * Object.keys(STYLES).length);
  const left = (i) => 134 + 44 * i;
  draw(svg, "text", { x: 0, y: 60 }, "score");
  draw(svg, "path", { d: `M124,60H${width}`, class: "frame" });
  const bars = words.map((word, i) => {
    draw(svg, "text", { x: left(i) + 15, y: 132, "text-anchor": "middle", "font-size": 12 }, word);
    const bar = draw(svg, "rect", { x: left(i), width: 30, class: "score" });
    const grip = draw(svg, "rect", { x: left(i), width: 30, height: 12, fill: "currentColor" });
    const set = (value) => {
      state.x[i] = clamp(value, -3, 3);
      changed();
    };
    handle(svg, grip, `score of ${word}`, ({ y }) => set((60 - y) / 17), (_, up) => set(state.x[i] + up / 10));
    return [bar, grip];
  });
  const rows = Object.entries(STYLES).map(([name, [label]], row) => {
    const base = 200 + 62 * row;
    draw(svg, "text", { x: 0, y: base - 6, "font-size": 12 }, label);
    draw(svg, "path", { d: `M124,${base}H${width}`, class: "frame" });
    const drawn = words.map((_, i) => draw(svg, "rect", { x: left(i), width: 30, fill: colour(name) }));
    const texts = words.map((_, i) => draw(svg, "text", { x: left(i) + 15, "text-anchor": "middle", "font-size": 10 }));
    return { name, base, drawn, texts };
  });
  const changed = () => {
    const weights = weightsOf(state);
    bars.forEach(([bar, grip], i) => {
      const y = 60 - 17 * state.x[i];
      bar.setAttribute("y", Math.min(y, 60));
      bar.setAttribute("height", Math.abs(y - 60));
      grip.setAttribute("y", y - 6);
      grip.setAttribute("aria-valuetext", state.x[i].toFixed(2));
    });
    for (const { name, base, drawn, texts } of rows)
      weights[name].forEach((p, i) => {
        const height = 40 * Math.sqrt(p); // the small ones are what differs
        drawn[i].setAttribute("y", base - height);
        drawn[i].setAttribute("height", height);
        texts[i].setAttribute("y", base - height - 3);
        texts[i].textContent = p === 0 ? "0" : p < 0.005 ? "<.01" : p.toFixed(2).replace(/^0/, "");
      });
  };
  changed();
}

document.addEventListener("DOMContentLoaded", () => {
  threeScores(document.getElementById("three-scores"));
  tokens(document.getElementById("tokens"));
});
