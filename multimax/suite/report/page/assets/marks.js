// How functions look: colour, marker and dashes are those of the figures. Several lines of one function in a panel
// keep its colour in other shades, with other dashes.

const SHADES = [["", 100], ["var(--ink)", 62], ["var(--card)", 55], ["var(--ink)", 38], ["var(--card)", 36]];
const MORE_DASHES = [null, [5, 1.5], [1.2, 1.4], [6, 1.5, 1.2, 1.5], [3, 1, 1, 1, 1, 1]];

function colorOf(attention, index = 0) {
  const own = DATA.functions[attention].color;
  const color = own === "#000000" ? "var(--black)" : own;
  const [other, share] = SHADES[index % SHADES.length];
  return other ? `color-mix(in oklab, ${color} ${share}%, ${other})` : color;
}

function dashesOf(attention, index, width) {
  const dashes = index ? MORE_DASHES[index % MORE_DASHES.length] : DATA.functions[attention].dash;
  return (dashes ?? []).map((length) => Math.max(length * width, 1)).join(" ");
}

// Outline of a marker around 0, 0; letters are Matplotlib's.
function markerPath(letter, r) {
  const turn = (points) => `M${points.map(([x, y]) => `${(x * r).toFixed(2)},${(y * r).toFixed(2)}`).join("L")}Z`;
  const around = (n, radius) => Array.from({ length: n }, (_, i) => {
    const angle = (2 * Math.PI * i) / n - Math.PI / 2;
    return [radius(i) * Math.cos(angle), radius(i) * Math.sin(angle)];
  });
  if (letter === "*") return turn(around(10, (i) => (i % 2 ? 0.42 : 1)));
  if (letter === "s") return turn([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]]);
  if (letter === "D") return turn([[0, -1], [1, 0], [0, 1], [-1, 0]]);
  if (letter === "^") return turn([[0, -1], [1, 0.8], [-1, 0.8]]);
  if (letter === "v") return turn([[0, 1], [1, -0.8], [-1, -0.8]]);
  if (letter === "X") {
    const a = 0.4;
    return turn([
      [-1, -1 + a], [-1 + a, -1], [0, -a], [1 - a, -1], [1, -1 + a], [a, 0],
      [1, 1 - a], [1 - a, 1], [0, a], [-1 + a, 1], [-1, 1 - a], [-a, 0],
    ]);
  }
  return `M${-r},0A${r},${r},0,1,0,${r},0A${r},${r},0,1,0,${-r},0Z`;
}

function marker(attention, index, x, y) {
  const { marker: letter, size } = DATA.functions[attention];
  const color = colorOf(attention, index);
  const [fill, stroke, width] = index % 2 ? ["var(--card)", color, "1.6px"] : [color, "var(--card)", "1px"];
  return svg("path", {
    d: markerPath(letter, size * 0.62),
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
    style: { fill, stroke, "stroke-width": width },
  });
}

// A piece of a line with its marker, for legends.
function swatch(attention, index = 0) {
  const dashes = dashesOf(attention, index, 2);
  const stroke = { stroke: colorOf(attention, index), "stroke-width": "2px", "stroke-dasharray": dashes };
  return svg("svg", { class: "swatch", width: 34, height: 14, viewBox: "0 0 34 14", "aria-hidden": "true" },
    svg("line", { x1: 1, x2: 33, y1: 7, y2: 7, style: stroke }),
    marker(attention, index, 17, 7));
}
