// How functions look: colour, marker and dashes are those of the figures. Several lines of one function in a panel
// keep its colour in other shades, with other dashes.

const SHADES = [["", 100], ["var(--ink)", 62], ["var(--card)", 55], ["var(--ink)", 38], ["var(--card)", 36]];
const MORE_DASHES = [null, [5, 1.5], [1.2, 1.4], [6, 1.5, 1.2, 1.5], [3, 1, 1, 1, 1, 1]];

function colorOf(attention, index = 0) {
  const own = DATA.functions[attention].color;
  const color = own === "#000000" ? "var(--black)" : dark(own) ? `color-mix(in oklab, ${own} var(--deep), white)` : own;
  const [other, share] = SHADES[index % SHADES.length];
  return other ? `color-mix(in oklab, ${color} ${share}%, ${other})` : color;
}

// A colour that would not be seen on black.
function dark(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(color.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.13;
}

function dashesOf(attention, index, width) {
  const dashes = index ? MORE_DASHES[index % MORE_DASHES.length] : DATA.functions[attention].dash;
  return (dashes ?? []).map((length) => Math.max(length * width, 1)).join(" ");
}

// hollow: in outline alone, with nothing behind it to be seen.
function marker(attention, hollow, color, x, y, times = 1) {
  const { outline, filled, size } = DATA.functions[attention];
  const open = hollow || !filled;
  const scale = size * 1.24 * times;
  return svg("path", {
    class: "marker", d: outline, transform: `translate(${x.toFixed(1)},${y.toFixed(1)}) scale(${scale},${-scale})`,
    style: {
      fill: !filled ? "none" : hollow ? "var(--card)" : color,
      stroke: open ? color : "var(--card)", "stroke-width": open ? "1.7px" : "1px",
    },
  });
}

// A piece of a line with its marker, for legends.
function swatch(attention, index = 0) {
  const dashes = dashesOf(attention, index, 2);
  const stroke = { stroke: colorOf(attention, index), "stroke-width": "2px", "stroke-dasharray": dashes };
  return svg("svg", { class: "swatch", width: 34, height: 14, viewBox: "0 0 34 14", "aria-hidden": "true" },
    svg("line", { x1: 1, x2: 33, y1: 7, y2: 7, style: stroke }),
    marker(attention, index % 2 === 1, colorOf(attention, index), 17, 7));
}
