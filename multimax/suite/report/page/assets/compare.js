// Two runs side by side, and what differs in their configurations.

function compareChoice(run) {
  const others = DATA.runs.filter((other) => other !== run);
  if (!others.length) return null;
  const groups = [...grouped(others, (other) => other.experiment)]
    .sort(([a], [b]) => (b === run.experiment) - (a === run.experiment) || a.localeCompare(b));
  const choose = (event) => show({ run: run.name, with: event.target.value });
  return h("label", { class: "compare" }, "Side by side with ",
    h("select", { name: "with", onchange: choose }, h("option", { value: "" }, "no other run"),
      ...groups.map(([experiment, of]) => h("optgroup", { label: experiment }, ...of.map((other) =>
        h("option", { value: other.name, selected: other.name === state.with }, other.name))))));
}

function twoRuns() {
  const [a, b] = [state.run, state.with].map((name) => DATA.runs.find((run) => run.name === name));
  if (!a || !b) return null;
  const keys = (part) => [...new Set([...Object.keys(a[part]), ...Object.keys(b[part])])].sort();
  const differing = (part, textOf) => keys(part).map((key) => [key, textOf(a, key), textOf(b, key)])
    .filter(([, x, y]) => x !== y);
  const settings = differing("config", settingOf);
  const facts = differing("facts", (run, key) => run.facts[key] ?? "");
  const both = (x, y) => typeof x === "number" && typeof y === "number";
  const metrics = keys("final").map((key) => [key, a.final[key], b.final[key]])
    .map(([key, x, y]) => [key, plain(x, 5), plain(y, 5), both(x, y) ? plain(y - x, 3) : ""]);
  const open = (run) => h("button", { type: "button", class: "open", onclick: () => show({ run: run.name }) },
    swatch(run.attention), ...breakable(run.name));
  const table = (title, rows, ...more) => plainTable([title, open(a), open(b), ...more], rows);
  return [
    ...dialogHead("Two runs"),
    compareChoice(a),
    h("h3", {}, "What differs in their configurations"),
    settings.length ? table("setting", settings) : h("p", {}, "Nothing does."),
    metrics.length ? h("h3", {}, "Final metrics") : null,
    metrics.length ? table("metric", metrics, "second − first") : null,
    facts.length ? h("h3", {}, "What else differs") : null,
    facts.length ? table("", facts) : null,
    ...[a, b].flatMap((run) => (run.command ? [h("h3", {}, `The command that repeats ${run.name}`), commandBox(run.command)] : [])),
  ];
}

function plainTable(titles, rows) {
  return h("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": String(titles[0]) }, h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, ...rows.map(([key, ...cells]) =>
      h("tr", {}, h("th", { scope: "row" }, ...breakable(key)), ...cells.map((cell) => h("td", {}, cell)))))));
}
