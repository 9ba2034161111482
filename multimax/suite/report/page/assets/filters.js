// What is shown: chips for the runs, and how the curves are drawn.

const FILTER_TITLES = {
  task: "Task", function: "Reweighting", scale: "Scale", seed: "Seed", status: "Status", experiment: "Experiment",
};
const HINT = "Drag over a plot to zoom in, double-click to see all. Click it to zoom with the wheel or with + and −, " +
  "and to move along it with the arrow keys.";

function values(name) {
  const found = [...new Set(DATA.runs.map((run) => String(run[name])))];
  const attention = new Map(DATA.runs.map((run) => [run.function, Object.keys(DATA.functions).indexOf(run.attention)]));
  if (name === "seed") return found.sort((a, b) => a - b);
  if (name === "function") return found.sort((a, b) => attention.get(a) - attention.get(b) || a.localeCompare(b));
  return found.sort();
}

function makeFilters() {
  const attention = new Map(DATA.runs.map((run) => [run.function, run.attention]));
  const chip = (name, value) =>
    h("button", { type: "button", class: "chip", "data-value": value, onclick: () => toggle(name, value) },
      name === "function" ? swatch(attention.get(value)) : null,
      h("span", {}, ...breakable(value)), h("span", { class: "n" }));
  $("chips").replaceChildren(...FILTERS.map((name) =>
    h("fieldset", { "data-filter": name }, h("legend", {}, FILTER_TITLES[name]),
      ...values(name).map((value) => chip(name, value)))),
  h("button", { type: "button", id: "clear", onclick: clearFilters }, "Clear all filters"));
  if (matchMedia("(max-width: 899px)").matches) $("filters").open = false;
}

function toggle(name, value) {
  const of = state.filters[name];
  if (!of.delete(value)) of.add(value);
  render();
}

function clearFilters() {
  for (const name of FILTERS) state.filters[name].clear();
  render();
}

function renderFilters() {
  let active = 0;
  for (const fieldset of $("chips").querySelectorAll("fieldset")) {
    const name = fieldset.dataset.filter;
    const counts = new Map();
    for (const run of DATA.runs.filter((run) => chosen(run, name))) {
      counts.set(String(run[name]), (counts.get(String(run[name])) ?? 0) + 1);
    }
    for (const chip of fieldset.querySelectorAll(".chip")) {
      const pressed = state.filters[name].has(chip.dataset.value);
      const count = counts.get(chip.dataset.value) ?? 0;
      chip.setAttribute("aria-pressed", pressed);
      chip.classList.toggle("empty", !count);
      chip.querySelector(".n").textContent = count;
      active += pressed;
    }
  }
  $("clear").hidden = !active;
  $("chosen").textContent = active ? `(${active} chosen)` : "";
}

function makeOptions() {
  const select = (name, title, options) => h("label", {}, title, h("select", { name }, ...options));
  const option = (value, text) => h("option", { value }, text);
  const kindOf = (name) => (name.includes("/") ? name.split("/")[0] : "other");
  const groups = grouped(DATA.metrics, kindOf);
  const order = ["train", "val", "sparsity", "multi_modality", "reweight"];
  const rank = (kind) => (order.indexOf(kind) + 1 || order.length + 1);
  const kinds = [...groups].sort(([a], [b]) => rank(a) - rank(b));
  $("options").replaceChildren(
    select("metric", "Metric", [option("score", "validation score of each task"),
      ...kinds.map(([kind, names]) => h("optgroup", { label: kind }, ...names.map((name) => option(name, name))))]),
    select("x", "Over", [option("step", "steps"), option("epoch", "epochs"), option("time", "time")]),
    select("spread", "Spread over seeds", Object.entries(SPREADS).map(([value, text]) => option(value, text))),
    select("group", "Group by", [option("", "experiment"), ...KEYS.map((key) => option(key, key))]),
    h("label", {}, "Smoothing", h("input", { name: "smooth", type: "range", min: 0, max: 0.95, step: 0.05 })),
    h("label", { class: "check" }, h("input", { name: "logx", type: "checkbox" }), "log x"),
    h("label", { class: "check" }, h("input", { name: "logy", type: "checkbox" }), "log y"),
    h("p", { class: "hint" }, HINT));
  $("options").addEventListener("submit", (event) => event.preventDefault());
  const take = ({ target: { name, type, checked, value } }) => {
    state[name] = type === "checkbox" ? (checked ? "1" : "") : value;
    if (name === "x" || name === "group") state.zoom = {};
    render(name === "group" ? ["panels", "table"] : ["panels"]);
  };
  $("options").addEventListener("change", take);
  $("options").elements.smooth.addEventListener("input", take); // while it is dragged
}

function renderOptions() {
  for (const element of $("options").elements) {
    if (!element.name) continue;
    if (element.type === "checkbox") element.checked = Boolean(state[element.name]);
    else element.value = state[element.name];
  }
}
