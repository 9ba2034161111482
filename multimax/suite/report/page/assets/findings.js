// The first screen: the tests of the plan with their verdicts; behind each the plan, the runs and the command.

const FINDINGS = DATA.findings;
const WHICH = { all: "All", primary: "Primary", run: "With a verdict" };

function findingKey({ comparison, against, measure }) {
  return [comparison, against, measure].join("/");
}

function makeFindings() {
  $("findings").hidden = !FINDINGS.rows.length;
  const choose = (which) => { state.findings = which; render(["findings"]); };
  $("findings-bar").append(
    h("div", { class: "tabs", role: "group", "aria-label": "Which findings" }, ...Object.entries(WHICH).map(([which, title]) =>
      h("button", { type: "button", "data-which": which, onclick: () => choose(which) }, title))));
}

function renderFindings() {
  if (!FINDINGS.rows.length) return;
  if (!WHICH[state.findings]) state.findings = "all";
  for (const button of $("findings-bar").querySelectorAll("[data-which]")) {
    button.setAttribute("aria-pressed", button.dataset.which === state.findings);
  }
  const primary = (row) => FINDINGS.comparisons[row.comparison].primary;
  const shown = FINDINGS.rows.filter((row) =>
    state.findings === "all" || (state.findings === "primary" ? primary(row) : row.in_margins));
  const forest = new Forest(shown);
  $("findings-note").replaceChildren(...findingsNote());
  const head = h("tr", {}, ...["Claim", "Against", "Seeds"].map((title) => h("th", { scope: "col" }, title)),
    h("th", { scope: "col", class: "plotted" }, forest.axis()),
    h("th", { scope: "col", class: "effect" }, "Effect / margin"), h("th", { scope: "col" }, "Verdict"));
  const bodies = [...grouped(shown, (row) => row.comparison)].map(([id, rows], i, all) => {
    const first = !i || FINDINGS.comparisons[all[i - 1][0]].primary !== FINDINGS.comparisons[id].primary;
    const kind = primary(rows[0]) ? "Primary comparisons, corrected for their number" : "Secondary comparisons: leads, not corrected";
    const title = h("tr", { class: "kind" }, h("th", { colspan: 6, scope: "rowgroup" }, kind));
    return h("tbody", {}, first ? title : null, ...rows.map((row, j) => findingRow(row, j ? null : rows, forest)));
  });
  $("findings-table").replaceChildren(h("table", {}, h("thead", {}, head), ...bodies));
}

function findingsNote() {
  const count = (rows) => [...grouped(rows, (row) => row.verdict.split(/[:,]/)[0])]
    .map(([verdict, of]) => `${of.length} ${verdict}`).join(", ");
  const [primary, secondary] = [true, false].map((is) =>
    FINDINGS.rows.filter((row) => FINDINGS.comparisons[row.comparison].primary === is));
  return [
    `Primary tests: ${count(primary)}. Secondary: ${count(secondary)}. What MultiMax gains, above zero where it is the `,
    "better one, with its 95% interval, in units of the margin, the smallest effect of interest (grey to either side of ",
    "zero); logarithmic beyond two. Primary comparisons have filled marks, secondary ones hollow marks. ",
    ...(DATA.figures.some(({ name }) => name === "findings") ? [link("figures/findings.svg", "As a picture"), ", "] : []),
    link("tables/findings.csv", "as CSV"), ", ", link("plan.yaml", "the plan"), ".",
  ];
}

// rows: those that share the claim, where this is the first of them.
function findingRow(row, rows, forest) {
  const { claim, primary, entry } = FINDINGS.comparisons[row.comparison];
  const { tag, setting } = FINDINGS.entries[entry];
  const measures = new Set(FINDINGS.rows.filter((of) => of.comparison === row.comparison).map((of) => of.statistic));
  const open = () => show({ finding: findingKey(row) });
  return h("tr", { class: rows ? "first" : null },
    rows ? h("th", { class: "claim", scope: "rowgroup", rowspan: rows.length }, claim,
      h("span", { class: "about" }, h("span", { class: "tag" }, tag), ` ${setting}; ${[...measures].join(" and ")}${measures.size > 1 ? ", which must all gain" : ""}`)) : null,
    h("td", { class: "against" }, h("button", { type: "button", class: "open", onclick: open },
      DATA.functions[row.against].label), measures.size > 1 ? h("span", { class: "note" }, ` ${row.statistic}`) : null),
    h("td", { class: "seeds" }, row.n),
    h("td", { class: row.in_margins ? "plotted" : "plotted unknown" }, forest.row(row, !primary)),
    h("td", { class: "effect", title: row.effect }, row["effect / margin"]),
    h("td", { class: "judged" }, verdictCell(row.verdict) ?? row.verdict));
}

function findingDetails() {
  const row = FINDINGS.rows.find((row) => findingKey(row) === state.finding);
  if (!row) return null;
  const of = FINDINGS.comparisons[row.comparison];
  const entry = FINDINGS.entries[of.entry];
  const given = (entries) => pairs(entries.filter(([, value]) => value));
  const figure = DATA.figures.find(({ name }) => name === `finding_${row.comparison}`);
  return [
    ...dialogHead(of.claim),
    h("p", {}, of.question),
    given([
      ["verdict", verdictCell(row.verdict) ?? row.verdict],
      ["against", [swatch(row.against), DATA.functions[row.against].label]],
      ["statistic", `${row.statistic}, ${of.better} is better; ${of.primary ? "primary" : "secondary"}`],
      ["setting", `${entry.setting}: ${entry.tag}`], ["seeds", row.n],
      ["effect", row.effect], ["in margins", row["effect / margin"]], ["margin", row.margin],
      ["evaluation set", row["evaluation set"]], ["detectable", row.detectable],
      ["p, of the test that decides", row.p], ["p, sign flip", row.p_sign_flip], ["p, Holm", row.p_holm],
      ["refuted if", of.refuted_if],
    ]),
    h("h3", {}, "The plan"), given(Object.entries(entry.plan)),
    h("h3", {}, "The runs"), runsOfFinding(row, of, entry),
    h("h3", {}, "The command that makes them"),
    ...(entry.commands.length ? entry.commands.map(commandBox) : [h("p", {}, "None yet: the entry names no revision.")]),
    figure ? figureCard(figure) : null,
  ];
}

function runsOfFinding(row, { ours, better, scale }, { measured, seeds, records }) {
  const of = measured[row.measure] ?? {};
  const taken = (value) => (scale === "log" ? Math.log(value) : value);
  const sign = better === "higher" ? 1 : -1;
  const lines = Array.from({ length: seeds[1] - seeds[0] + 1 }, (_, i) => [seeds[0] + i, of[ours]?.[i], of[row.against]?.[i]])
    .filter(([, a, b]) => typeof a === "number" || typeof b === "number");
  if (!lines.length) return h("p", {}, `Nobody looks before all runs of seeds ${seeds.join(" to ")} are there.`);
  const both = (a, b) => typeof a === "number" && typeof b === "number";
  return h("div", {},
    h("p", { class: "note" }, records ? link(records, "All that was measured of them, as CSV") : null),
    plainTable(["seed", ours, row.against, scale === "log" ? "gain, ln" : "gain"], lines.map(([seed, a, b]) =>
      [String(seed), plain(a, 5), plain(b, 5), both(a, b) ? plain(sign * (taken(a) - taken(b)), 3) : ""])));
}
