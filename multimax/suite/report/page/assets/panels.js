// The curves: a panel for each experiment that is shown, drawn when it comes into view.

const panels = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const panel = panels.get(entry.target.dataset.name);
    if (!panel) continue;
    panel.visible = entry.isIntersecting;
    if (panel.visible && panel.stale) drawPanel(panel);
  }
}, { rootMargin: "300px" });
const resizer = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const panel = panels.get(entry.target.dataset.name);
    if (panel && panel.width !== entry.contentRect.width) redraw(panel);
  }
});

addEventListener("beforeprint", () => {
  for (const panel of panels.values()) if (panel.stale && panel.element.isConnected) drawPanel(panel);
});

function panelOf(name) {
  if (panels.has(name)) return panels.get(name);
  const panel = { name, visible: false, stale: true };
  panel.plot = new Plot(name, (range) => {
    if (range) state.zoom[name] = range;
    else delete state.zoom[name];
    writeAddress();
    drawPanel(panel);
  });
  panel.legend = h("ul", { class: "legend" });
  panel.note = h("p", { class: "note" });
  panel.what = h("span", { class: "metric" });
  const showAll = () => panel.plot.onzoom(null);
  panel.reset = h("button", { type: "button", class: "reset", hidden: true, onclick: showAll }, "Show all");
  const { description } = infoOf(name);
  panel.element = h("article", { class: "panel", "data-name": name, "aria-label": name },
    h("header", {}, h("h3", {}, ...breakable(name)), panel.what, panel.reset),
    description ? h("p", { class: "about", title: description }, description) : null,
    panel.plot.element, panel.legend, panel.note);
  panels.set(name, panel);
  watcher.observe(panel.element);
  resizer.observe(panel.element);
  return panel;
}

function redraw(panel) {
  panel.stale = true;
  if (panel.visible) drawPanel(panel);
}

function drawPanel(panel) {
  const { name, plot } = panel;
  const { lines, without } = linesOf(panel.runs, metricOf(name));
  const each = state.spread === "runs";
  panel.stale = false;
  panel.width = panel.element.clientWidth - parseFloat(getComputedStyle(panel.element).paddingLeft) * 2;
  plot.show({
    lines, each, once: evaluatedOnce(lines), zoom: state.zoom[name],
    logX: Boolean(state.logx), logY: Boolean(state.logy), xTitle: X_TITLE[state.x],
    height: panel.element.parentElement.children.length === 1 && panel.width > 600 ? 420 : 290,
  });
  panel.reset.hidden = !state.zoom[name];
  const { metric: score, higher_is_better: higher } = infoOf(name);
  const direction = state.metric === "score" && score ? (higher ? ", higher is better" : ", lower is better") : "";
  panel.what.textContent = metricOf(name) + direction;
  panel.legend.replaceChildren(...lines.map((line, i) => h("li", {
    onpointerenter: () => plot.highlight(i), onpointerleave: () => plot.highlight(null),
  }, swatch(line.attention, line.index), h("span", {}, ...breakable(line.label)),
  h("span", { class: "n" }, seedsText(line.runs) + testText(line.runs)))));
  const names = [...without.slice(0, 4).map((run) => run.name), ...(without.length > 4 ? ["…"] : [])].join(", ");
  panel.note.textContent = without.length ? `No such curve in ${plural(without.length, "run")}: ${names}` : "";
  if (lines.length && !performance.getEntriesByName("first-curve").length) performance.mark("first-curve");
}

// The step at which all lines have their one point, if they have no more: there is no curve then, but dots in a row.
function evaluatedOnce(lines) {
  const steps = new Set(lines.flatMap((line) => line.points.map((point) => point.step)));
  if (steps.size !== 1) return null;
  lines.forEach((line, i) => [...line.points, ...line.each.flat()].forEach((point) => { point.x = i + 1; }));
  return [...steps][0];
}

function seedsText(runs) {
  if (runs.length > 8) return plural(runs.length, "run");
  return `seed${runs.length > 1 ? "s" : ""} ${runs.map((run) => run.seed).sort((a, b) => a - b).join(" ")}`;
}

// Of the score: what the same runs reach on test data.
function testText(runs) {
  if (state.metric !== "score" || runs.some((run) => run.test === null)) return "";
  return `, test ${fixed(runs.reduce((sum, run) => sum + run.test, 0) / runs.length)}`;
}

function renderPanels(runs) {
  const byExperiment = [...grouped(runs, panelOfRun)].sort(([a], [b]) => a.localeCompare(b));
  const shown = byExperiment.filter(([name, group]) => {
    const metric = metricOf(name);
    return METRIC.has(metric) && group.some((run) => curveOf(run, metric));
  });
  const left = byExperiment.length - shown.length;
  $("panels").replaceChildren(...shown.map(([name, group]) => {
    const panel = panelOf(name);
    panel.runs = group;
    return panel.element;
  }));
  $("panels").classList.toggle("single", shown.length === 1);
  $("curves-note").textContent = [
    shown.length ? "" : "Nothing to draw: no run that is shown has this metric.",
    shown.length && left ? `Without this metric and left out: ${plural(left, state.group ? "group" : "experiment")}.` : "",
    spreadNote(), Number(state.smooth) ? `Each run is smoothed by a moving average of weight ${state.smooth}.` : "",
    `Curves have at most ${DATA.points} points.`,
    state.x === "time" ? "Time is a run's mean per step, evaluation included." : "",
  ].filter(Boolean).join(" ");
  for (const [name] of shown) redraw(panels.get(name));
}

function spreadNote() {
  if (state.spread === "runs") return "Each run is a line.";
  const band = {
    minmax: ", in a band from the least to the greatest run",
    sd: ", in a band of one sample standard deviation to either side",
    none: "",
  };
  return `Lines are means over the ${state.group ? "runs" : "seeds"} that reached the step${band[state.spread]}.`;
}
