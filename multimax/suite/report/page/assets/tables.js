// Tables that sort: means over seeds, runs, and the tables of the claims.

const MEANS = {
  title: "Means over seeds",
  get note() {
    return state.group ? `Each function and each value of ${state.group} over all of their finished runs that are shown, whatever
      else these differ in, with the 95% interval of the mean (Student's t), and the difference to ${DATA.baseline} over runs that
      share experiment, settings and seed. Nothing is corrected for the number of rows.` : `Each function within its experiment over
      all of its finished seeds, with the 95% interval of the mean (Student's t), and its difference to ${DATA.baseline} over the
      seeds that both have run, with interval and two-sided p-value; neither is corrected for the number of rows. A filter for seeds
      does not change these means. Beside them the means of the same score on validation and on test data.`;
  },
  rows: () => {
    if (state.group) return groupedMeans(DATA.runs.filter((run) => chosen(run)));
    const shown = new Set(DATA.runs.filter((run) => chosen(run)).map((run) => `${run.experiment}\n${labelOf(run)}`));
    return DATA.means.filter((row) => shown.has(`${row.experiment}\n${labelOf(row)}`));
  },
  columns: [
    column("function", "Function", labelOf, functionCell),
    column("experiment", "Experiment", (r) => r.experiment),
    column("metric", "Metric", (r) => r.metric),
    numbers("mean", "Mean", (r) => r.mean, (r) => fixed(r.mean)),
    numbers("sd", "SD", (r) => r.deviation, (r) => fixed(r.deviation)),
    numbers("interval", "95% interval", (r) => r.interval?.[0], (r) => intervalText(r.interval), (r) => r.interval?.join(" to ")),
    numbers("seeds", "Seeds", (r) => r.seeds.length, seedsOfMean, (r) => r.seeds.join(" ")),
    numbers("validation", "Validation", (r) => r.validation, (r) => fixed(r.validation)),
    numbers("test", "Test", (r) => r.test, (r) => fixed(r.test)),
    numbers("difference", `− ${DATA.baseline}`, (r) => r.difference, (r) => fixed(r.difference, 2, true)),
    numbers("difference_interval", "its 95% interval", (r) => r.difference_interval?.[0],
      (r) => intervalText(r.difference_interval, true), (r) => r.difference_interval?.join(" to ")),
    numbers("p", "p", (r) => r.p, (r) => fixed(r.p, 3)),
    numbers("pairs", "Pairs", (r) => r.pairs, (r) => String(r.pairs || "")),
  ],
};

const RUNS = {
  title: "Runs",
  note: `Click a run for its configuration, its machine and the command that repeats it. Of a run that is not finished
    the value is its newest score on the validation data. The download has all final metrics and configurations.`,
  rows: () => DATA.runs.filter((run) => chosen(run)),
  more: moreOfRuns,
  get columns() {
    const group = column("group", state.group, (r) => settingOf(r, state.group));
    return state.group ? [RUN_COLUMNS[0], group, ...RUN_COLUMNS.slice(1)] : RUN_COLUMNS;
  },
};

const RUN_COLUMNS = [
  column("function", "Function", labelOf, (r) => {
    const open = () => show({ run: r.name });
    return h("button", { type: "button", class: "open", title: r.name, onclick: open }, ...functionCell(r));
  }),
  column("experiment", "Experiment", (r) => r.experiment),
  numbers("seed", "Seed", (r) => r.seed),
  column("status", "Status", (r) => r.status, (r) => r.status + (r.status === "finished" ? "" : ` at ${r.step}`)),
  column("metric", "Metric", (r) => r.metric),
  numbers("validation", "Validation", newestScore, (r) => {
    const text = fixed(newestScore(r));
    return text && r.validation === null ? `${text} so far` : text;
  }),
  numbers("test", "Test", (r) => r.test, (r) => fixed(r.test)),
  numbers("loss", "Last train loss", (r) => lastOf(r, "train/loss"), (r) => plain(lastOf(r, "train/loss"))),
  numbers("steps", "Steps", (r) => r.of_steps ?? r.step),
  numbers("time", "Time", (r) => r.seconds_per_step && r.seconds_per_step * r.step,
    (r) => duration(r.seconds_per_step * r.step)),
  numbers("parameters", "Parameters", (r) => r.parameters, (r) => r.parameters?.toLocaleString("en") ?? ""),
  column("scale", "Scale", (r) => r.scale),
];

function seedsOfMean({ seeds }) {
  return seeds.length > 6 ? `${seeds.length} runs` : seeds.join(" ");
}

function lastOf(run, metric) {
  return curveOf(run, metric)?.values.at(-1);
}

function newestScore(run) {
  return run.validation ?? lastOf(run, `val/${run.metric}`);
}

// A table that Python made, of text. The verdict comes beside what it is about, where it is seen without scrolling.
function made({ title, text, columns, rows }) {
  const at = columns.indexOf("experiment");
  const first = [columns[0], "claim", "verdict", "these runs"].filter((name) => columns.includes(name));
  return {
    title,
    note: text.replace(/[`*]/g, ""),
    rows: () => rows.filter((row) => at < 0 || !state.filters.experiment.size || state.filters.experiment.has(row[at])),
    columns: [...new Set([...first, ...columns])]
      .filter((name) => name !== "id" || !columns.includes("claim"))
      .map((name) => madeColumn(name, rows, columns.indexOf(name))),
  };
}

function madeColumn(name, rows, i) {
  const number = (text) => (/^[+-]?[\d.]+(e[+-]?\d+)?( |$)/i.test(text) ? parseFloat(text) : text);
  const filled = rows.map((row) => row[i]).filter((text) => text && !verdictCell(text));
  const numeric = filled.length > 0 && filled.every((text) => typeof number(text) === "number");
  const value = (row) => (row[i] === "" ? null : number(row[i]));
  return (numeric ? numbers : column)(name, name, value, (row) => madeCell(row[i], name));
}

const VIEWS = new Map([["means", MEANS], ["runs", RUNS], ...DATA.tables.map((table) => [table.name, made(table)])]);
const TABS = {
  claims_numbers: "Claims: numbers", claims_comparisons: "Claims in words", stand_ins: "Stand-ins", figure1: "Figure 1",
};

function makeTableBar() {
  const tab = ([name, { title }]) => {
    const plainName = name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
    const choose = () => {
      state.view = name;
      render(["table"]);
    };
    return h("button", { type: "button", "data-view": name, onclick: choose },
      TABS[name] ?? (title.length < 24 ? title : plainName));
  };
  const find = (event) => {
    state.find = event.target.value;
    render(["table"]);
  };
  const words = "Find in this table";
  const save = () => download(`multimax-${state.view}.csv`, csv(VIEWS.get(state.view), shownRows()));
  $("table-bar").replaceChildren(
    h("div", { class: "tabs", role: "group", "aria-label": "Tables" }, ...[...VIEWS].map(tab)),
    h("label", { id: "order" }, "Sorted by ", h("select", { name: "order", onchange: orderBy })),
    h("input", { id: "find", type: "search", placeholder: words, "aria-label": words, oninput: find }),
    h("button", { type: "button", id: "download", onclick: save }, "Download CSV"));
}

function renderTable() {
  if (!VIEWS.has(state.view)) state.view = "means";
  const view = VIEWS.get(state.view);
  for (const button of $("table-bar").querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === state.view);
  }
  if ($("find").value !== state.find) $("find").value = state.find;
  $("table-note").textContent = view.note;
  const { columns } = view;
  const rows = shownRows();
  const body = rows.map((row) => h("tr", {}, ...columns.map((column) => cellOf(column, row))));
  const none = "No rows: nothing here fits the filters.";
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: columns.length }, none)));
  const focused = document.activeElement?.dataset?.column;
  const head = h("tr", {}, ...columns.map(headOf));
  const [key, down] = state.sort[state.view] ?? [""];
  $("order").lastChild.replaceChildren(h("option", { value: "" }, "as it is"),
    ...columns.map((column) => h("option", { value: column.key, selected: column.key === key },
      column.title + (column.key === key ? (down ? " ↓" : " ↑") : ""))));
  $("table").replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, ...body)));
  if (focused) $("table").querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
}

// What fits the filters and the words looked for, in the reader's order.
function shownRows() {
  const view = VIEWS.get(state.view);
  const words = state.find.toLowerCase();
  const text = (row) => view.columns.map((column) => column.value(row)).join(" ").toLowerCase();
  return sorted(view.rows().filter((row) => !words || text(row).includes(words)), view);
}

// On a phone, where the table has no head to click on.
function orderBy(event) {
  const column = VIEWS.get(state.view).columns.find(({ key }) => key === event.target.value);
  if (column) state.sort[state.view] = [column.key, column.numeric];
  else delete state.sort[state.view];
  render(["table"]);
}

function headOf(column) {
  const [key, down] = state.sort[state.view] ?? [];
  const order = column.key !== key ? null : down ? "descending" : "ascending";
  const arrow = { ascending: " ↑", descending: " ↓" }[order] ?? "";
  return h("th", { scope: "col", class: column.numeric ? "number" : null, "aria-sort": order },
    h("button", { type: "button", "data-column": column.key, onclick: () => sortBy(column) },
      column.title, h("span", { class: "arrow", "aria-hidden": "true" }, arrow)));
}

function cellOf({ title, value, cell, numeric }, row) {
  const found = (cell ?? value)(row) ?? "";
  const content = typeof found === "number" ? String(found) : found;
  const wide = typeof content === "string" && content.length > 40;
  return h("td", { class: numeric ? "number" : wide ? "wide" : null, "data-title": title }, content);
}

function sorted(rows, view) {
  const [key, down] = state.sort[state.view] ?? [];
  const by = view.columns.find((column) => column.key === key);
  if (!by) return rows;
  const empty = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  const words = (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : words(a, b));
  return [...rows].sort((a, b) => {
    const [x, y] = [by.value(a), by.value(b)];
    if (empty(x) || empty(y)) return empty(x) - empty(y); // what is empty comes last
    return (down ? -1 : 1) * order(x, y);
  });
}

// Numbers begin with the greatest, words with the first; a third click takes the order back.
function sortBy({ key, numeric }) {
  const [old, down] = state.sort[state.view] ?? [];
  if (old !== key) state.sort[state.view] = [key, numeric];
  else if (down === numeric) state.sort[state.view] = [key, !numeric];
  else delete state.sort[state.view];
  render(["table"]);
}
