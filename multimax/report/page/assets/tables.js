// Tables that sort: means over seeds, runs, and the tables of the claims.

const VERDICTS = {
  reproduced: ["good", "✓"], "as claimed": ["good", "✓"], better: ["good", "▲"],
  "not reproduced": ["bad", "✗"], "the opposite": ["bad", "✗"],
  "not decided": ["open", "~"], "not run": ["none", "○"], "not available": ["none", "–"],
};

// A column: key, title, value(row) to sort and search by, and cell(row) to show where that is something else.
const column = (key, title, value, cell = null, numeric = false) => ({ key, title, value, cell, numeric });

const intervalText = (bounds, sign = false) => (bounds ? `${fixed(bounds[0], 2, sign)} to ${fixed(bounds[1], 2, sign)}` : "");
const functionCell = (row, attention) => [swatch(attention), h("span", {}, ...breakable(row.function + (row.variant ? ` · ${row.variant}` : "")))];
const attentionOf = new Map(DATA.runs.map((run) => [run.function, run.attention]));

const MEANS = {
  title: "Means over seeds",
  note: `Each function within its experiment over all of its finished seeds, with the 95% interval of the mean (Student's t), and its difference to ${DATA.baseline} over the seeds that both have run, with interval and two-sided p-value; neither is corrected for the number of rows. A filter for seeds does not change these means.`,
  rows: () => DATA.means.filter((row) => DATA.runs.some((run) => run.experiment === row.experiment && run.function === row.function && run.variant === row.variant && chosen(run))),
  columns: [
    column("function", "Function", (r) => r.function + r.variant, (r) => functionCell(r, attentionOf.get(r.function))),
    column("experiment", "Experiment", (r) => r.experiment),
    column("metric", "Metric", (r) => r.metric),
    column("mean", "Mean", (r) => r.mean, (r) => fixed(r.mean), true),
    column("sd", "SD", (r) => r.deviation, (r) => fixed(r.deviation), true),
    column("interval", "95% interval", (r) => r.interval?.[0], (r) => intervalText(r.interval), true),
    column("seeds", "Seeds", (r) => r.seeds.length, (r) => r.seeds.join(" "), true),
    column("difference", `− ${DATA.baseline}`, (r) => r.difference, (r) => fixed(r.difference, 2, true), true),
    column("difference_interval", "its 95% interval", (r) => r.difference_interval?.[0], (r) => intervalText(r.difference_interval, true), true),
    column("p", "p", (r) => r.p, (r) => fixed(r.p, 3), true),
    column("pairs", "Pairs", (r) => r.pairs, (r) => String(r.pairs || ""), true),
  ],
};

const RUNS = {
  title: "Runs",
  note: "Click a run for its configuration, its machine and the command that repeats it. Of a run that is not finished the value is its newest score on the validation data.",
  rows: () => DATA.runs.filter((run) => chosen(run)),
  columns: [
    column("function", "Function", (r) => r.function + r.variant, (r) => h("button", { type: "button", class: "open", title: r.name, onclick: () => openRun(r.name) }, ...functionCell(r, r.attention))),
    column("experiment", "Experiment", (r) => r.experiment),
    column("seed", "Seed", (r) => r.seed, null, true),
    column("status", "Status", (r) => r.status, (r) => (r.status === "finished" ? "finished" : `${r.status} at ${r.step}`)),
    column("metric", "Metric", (r) => r.headline),
    column("value", "Value", (r) => valueOf(r), (r) => (r.value === null && valueOf(r) !== undefined ? `${fixed(valueOf(r))} so far` : fixed(r.value)), true),
    column("loss", "Last train loss", (r) => lastOf(r, "train/loss"), (r) => plain(lastOf(r, "train/loss")), true),
    column("steps", "Steps", (r) => r.of_steps ?? r.step, (r) => String(r.of_steps ?? r.step), true),
    column("time", "Time", (r) => r.seconds_per_step && r.seconds_per_step * r.step, (r) => duration(r.seconds_per_step * r.step), true),
    column("parameters", "Parameters", (r) => r.parameters, (r) => r.parameters?.toLocaleString("en") ?? "", true),
    column("scale", "Scale", (r) => r.scale),
  ],
};

function lastOf(run, metric) {
  return curveOf(run, metric)?.values.at(-1);
}

function valueOf(run) {
  return run.value ?? lastOf(run, `val/${run.metric}`);
}

function made(table) {
  const at = table.columns.indexOf("experiment");
  const told = table.columns.find((title) => title === "verdict" || title === "these runs");
  const number = (text) => (/^[+-]?[\d.]+(e[+-]?\d+)?( |$)/i.test(text) ? parseFloat(text) : text);
  return {
    title: table.title,
    note: table.text.replace(/[`*]/g, ""),
    rows: () => table.rows.filter((row) => at < 0 || !state.filters.experiment.size || state.filters.experiment.has(row[at])),
    // the verdict beside what it is about, where it is seen without scrolling
    columns: (told ? [table.columns[0], "claim", told, ...table.columns] : table.columns).filter((title, i, all) => table.columns.includes(title) && all.indexOf(title) === i).flatMap((title) => {
      const i = table.columns.indexOf(title);
      if (title === "id" && table.columns.includes("claim")) return [];
      const filled = table.rows.map((row) => row[i]).filter((text) => text && !VERDICTS[text]);
      const numeric = filled.length > 0 && filled.every((text) => typeof number(text) === "number");
      return [column(title, title, (row) => (row[i] === "" ? null : number(row[i])), (row) => madeCell(row[i], title), numeric)];
    }),
  };
}

function madeCell(text, title) {
  if (VERDICTS[text]) return h("span", { class: `verdict ${VERDICTS[text][0]}` }, `${VERDICTS[text][1]} ${text}`);
  if (/^`.*`$/.test(text)) return h("code", {}, text.slice(1, -1));
  if (title === "function" || title === "against") {
    const attention = attentionOf.get(text) ?? (DATA.functions[text] ? text : null);
    if (attention) return [swatch(attention), h("span", {}, text)];
  }
  return text;
}

const VIEWS = new Map([["means", MEANS], ["runs", RUNS], ...DATA.tables.map((table) => [table.name, made(table)])]);

function makeTableBar() {
  const short = { claims_numbers: "Claims: numbers", claims_comparisons: "Claims in words", stand_ins: "Stand-ins", figure1: "Figure 1" };
  const tab = ([name, view]) => h("button", { type: "button", "data-view": name, "aria-pressed": "false", onclick: () => { state.view = name; render(["table"]); } }, short[name] ?? (view.title.length < 24 ? view.title : name[0].toUpperCase() + name.slice(1).replaceAll("_", " ")));
  $("table-bar").replaceChildren(
    h("div", { class: "tabs", role: "group", "aria-label": "Tables" }, ...[...VIEWS].map(tab)),
    h("input", { id: "find", type: "search", placeholder: "Find in this table", "aria-label": "Find in this table", oninput: (event) => { state.find = event.target.value; render(["table"]); } }));
}

function sorted(rows, view) {
  const [key, down] = state.sort[state.view] ?? [];
  const by = view.columns.find((column) => column.key === key);
  if (!by) return rows;
  const empty = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return [...rows].sort((a, b) => {
    const [x, y] = [by.value(a), by.value(b)];
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    return (down ? -1 : 1) * order(x, y);
  });
}

function renderTable() {
  if (!VIEWS.has(state.view)) state.view = "means";
  const view = VIEWS.get(state.view);
  const [key, down] = state.sort[state.view] ?? [];
  for (const button of $("table-bar").querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === state.view);
  if ($("find").value !== state.find) $("find").value = state.find;
  const words = state.find.toLowerCase();
  const text = (row) => view.columns.map((column) => column.value(row)).join(" ").toLowerCase();
  const rows = sorted(view.rows().filter((row) => !words || text(row).includes(words)), view);
  $("table-note").textContent = view.note;
  const heads = view.columns.map((column) => h("th", { scope: "col", class: column.numeric ? "number" : null, "aria-sort": column.key !== key ? null : down ? "descending" : "ascending" },
    h("button", { type: "button", "data-column": column.key, onclick: () => sortBy(column) }, column.title, h("span", { class: "arrow", "aria-hidden": "true" }, column.key !== key ? "" : down ? " ↓" : " ↑"))));
  const cell = (column, row) => {
    const content = column.cell ? column.cell(row) : column.value(row);
    return content === null || content === undefined ? "" : typeof content === "number" ? String(content) : content;
  };
  const body = rows.map((row) => h("tr", {}, ...view.columns.map((column) => {
    const content = cell(column, row);
    const wide = typeof content === "string" && content.length > 40;
    return h("td", { class: column.numeric ? "number" : wide ? "wide" : null }, content);
  })));
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: view.columns.length }, "No rows: nothing here fits the filters.")));
  const focused = document.activeElement?.dataset?.column;
  $("table").replaceChildren(h("table", { "data-table": state.view }, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...body)));
  if (focused) $("table").querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
}

// Numbers begin with the greatest, words with the first; a third click takes the order back.
function sortBy({ key, numeric }) {
  const [old, down] = state.sort[state.view] ?? [];
  if (old !== key) state.sort[state.view] = [key, numeric];
  else if (down === numeric) state.sort[state.view] = [key, !numeric];
  else delete state.sort[state.view];
  render(["table"]);
}
