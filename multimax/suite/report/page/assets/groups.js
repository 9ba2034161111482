// Runs that are one line and one row: those of an experiment that differ in their seed alone or, where the reader
// groups by a key of the configuration, those of a task that agree in function and in that key.

const KEYS = (() => {
  const found = new Map();
  for (const { config } of DATA.runs) {
    for (const key of Object.keys(config)) if (!found.has(key)) found.set(key, new Set());
  }
  for (const [key, values] of found) for (const run of DATA.runs) values.add(settingOf(run, key));
  return [...found].filter(([, values]) => values.size > 1).map(([key]) => key).sort();
})();
const groupInfo = new Map();

function settingOf(run, key) {
  const value = run.config[key];
  return value === undefined ? "absent" : typeof value === "object" ? JSON.stringify(value) : String(value);
}

// What tells a run from others of its function.
function variantOf(run) {
  return state.group ? `${state.group}=${settingOf(run, state.group)}` : run.variant;
}

function labelOf({ function: name, variant }) {
  return variant ? `${name} · ${variant}` : name;
}

function lineOf(run) {
  return labelOf({ function: run.function, variant: variantOf(run) });
}

// The panel that a run is drawn in.
function panelOfRun(run) {
  if (!state.group) return run.experiment;
  const of = DATA.experiments[run.experiment];
  const name = `${[run.task, of.metric].filter(Boolean).join(" ")} by ${state.group}`;
  if (!groupInfo.has(name)) groupInfo.set(name, { ...of, description: "" });
  return name;
}

function infoOf(panel) {
  return (state.group && groupInfo.get(panel)) || DATA.experiments[panel];
}

function grouped(items, keyOf) {
  const groups = new Map();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

// As Python's means over seeds, over all finished runs of a group; differences are of runs that share all but function.
function groupedMeans(runs) {
  const finished = runs.filter((run) => run.value !== null);
  const twin = ({ experiment, variant, seed }) => `${experiment}\n${variant}\n${seed}`;
  const baseline = new Map(DATA.runs.filter((run) => run.function === DATA.baseline).map((run) => [twin(run), run.value]));
  const groups = grouped(finished, (run) => [panelOfRun(run), run.headline, lineOf(run)].join("\n"));
  return [...groups.values()].map((group) => {
    const [{ function: name, headline, experiment }] = group;
    const twins = name === DATA.baseline ? [] : group.filter((run) => typeof baseline.get(twin(run)) === "number");
    const difference = spreadOf(twins.map((run) => run.value - baseline.get(twin(run))));
    const of = spreadOf(group.map((run) => run.value), DATA.experiments[experiment].possible ?? undefined);
    const mean = (key) => (group.every((run) => run[key] !== null) ? spreadOf(group.map((run) => run[key])).mean : null);
    return {
      function: name, variant: variantOf(group[0]), metric: headline, ...of,
      experiment: [...new Set(group.map((run) => run.experiment))].join(" "),
      seeds: group.map((run) => run.seed).sort((a, b) => a - b), validation: mean("validation"), test: mean("test"),
      difference: difference.mean, difference_interval: difference.interval, p: null, pairs: twins.length,
    };
  });
}

function spreadOf(values, [least, greatest] = [null, null]) {
  const n = values.length;
  if (!n) return { mean: null, deviation: null, interval: null };
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  if (n < 2) return { mean, deviation: null, interval: null };
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
  const half = (DATA.t[n - 2] * deviation) / Math.sqrt(n);
  return { mean, deviation, interval: [Math.max(least ?? -Infinity, mean - half), Math.min(greatest ?? Infinity, mean + half)] };
}
