// What the reader chose. It is in the address after #, so that a view can be bookmarked and shared.

const FILTERS = ["task", "function", "scale", "seed", "status", "experiment"];
const SPREADS = { minmax: "least to greatest", sd: "± standard deviation", runs: "each run", none: "none" };
const START = {
  metric: "score", x: "step", logx: "", logy: "", smooth: "0", spread: "minmax", view: "means",
  find: "", run: "", with: "", finding: "", findings: "all", group: "", picture: "",
};

const state = { filters: {}, zoom: {}, sort: {}, ...START };

function readAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const name of FILTERS) state.filters[name] = new Set(query.getAll(name));
  for (const name of Object.keys(START)) state[name] = query.get(name) ?? START[name];
  state.zoom = {};
  state.sort = {};
  for (const [key, value] of query) {
    const [kind, name] = [key.slice(0, key.indexOf(".")), key.slice(key.indexOf(".") + 1)];
    const range = value.split(",").map(Number);
    if (kind === "zoom" && range.length === 2 && range[0] < range[1]) state.zoom[name] = range;
    if (kind === "sort") state.sort[name] = [value.replace(/^-/, ""), value.startsWith("-")];
  }
}

function address() {
  const query = new URLSearchParams();
  for (const name of FILTERS) for (const value of state.filters[name]) query.append(name, value);
  for (const [name, value] of Object.entries(START)) if (state[name] !== value) query.set(name, state[name]);
  for (const [name, range] of Object.entries(state.zoom)) {
    query.set(`zoom.${name}`, range.map((x) => plain(x, 6)).join(","));
  }
  for (const [name, [column, down]] of Object.entries(state.sort)) {
    query.set(`sort.${name}`, (down ? "-" : "") + column);
  }
  return `#${query}`;
}

function writeAddress() {
  if (location.hash !== address()) history.replaceState(null, "", address());
}

function chosen(run, but = null) {
  const passes = (of, value) => !of.size || of.has(String(value));
  return FILTERS.every((name) => name === but || passes(state.filters[name], run[name]));
}
