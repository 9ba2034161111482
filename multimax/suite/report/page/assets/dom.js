// Elements, and numbers as text. All text goes through text nodes: what a run is called can never be markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

const $ = (id) => document.getElementById(id);

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A link that stays on this page, or beside it: nothing from a run may lead elsewhere.
function link(path, ...children) {
  const safe = /^[\w.%/@+~-]+$/.test(path) && !path.startsWith("/");
  return safe ? h("a", { href: path }, ...children) : h("span", {}, ...children);
}

// Text that may be broken between the parts of a name.
function breakable(text) {
  return text.split(/(?<=[-_=(,.])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));
}

function plain(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(digits - 2).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

// As many digits whatever they are, for numbers below one another.
function digits(value, count) {
  const size = Math.abs(value);
  return size === 0 || (size >= 1e-3 && size < 1e5) ? value.toPrecision(count) : plain(value, count);
}

function fixed(value, digits = 2, sign = false) {
  if (value === null || value === undefined) return "";
  const text = value.toFixed(digits);
  if (Number(text) < 0) return text;
  return (sign ? "+" : "") + text.replace("-", ""); // no -0.00
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function duration(seconds) {
  if (!seconds) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${plain(seconds / 3600, 3)} h`;
}
