// From runs to lines: runs that differ in their seed alone are one line, with their mean and spread at each step.

const METRIC = new Map(DATA.metrics.map((name, index) => [name, index]));

// Name of the metric that is shown in a panel; "score" is the one that its task is judged by on the validation
// data, or the training loss before there is any.
function metricOf(panel) {
  if (state.metric !== "score") return state.metric;
  const { metric } = infoOf(panel);
  return metric ? `val/${metric}` : "train/loss";
}

function curveOf(run, metric) {
  const curve = run.curves.find((curve) => curve[0] === METRIC.get(metric));
  return curve ? { steps: run.steps[curve[1]], values: curve[2] } : null;
}

// Exponential moving average as TensorBoard's: free of the bias to the first value.
function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    sum = weight * sum + value;
    total = weight * total + 1;
    return sum / total;
  });
}

function perStep(run) {
  if (state.x === "epoch") return run.steps_per_epoch ? 1 / run.steps_per_epoch : null;
  if (state.x === "time") return run.seconds_per_step ? run.seconds_per_step / 60 : null;
  return 1;
}

const X_TITLE = { step: "step", epoch: "epoch", time: "minutes of training" };

// Value between the points of a curve; null where the run has not been.
function valueAt(curve, step) {
  const { steps, values } = curve;
  let low = 0;
  let high = steps.length - 1;
  if (step < steps[low] || step > steps[high]) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  if (steps[low] === step) return values[low];
  const share = (step - steps[low]) / (steps[high] - steps[low]);
  return values[low] + share * (values[high] - values[low]);
}

// Lines of an experiment: {runs, label, attention, index, points: [{x, step, mean, low, high, n}], each: [points]}.
// index counts the lines of one function, which share its colour. without: runs that have no such curve.
function linesOf(runs, metric) {
  const groups = new Map();
  const without = [];
  const weight = Number(state.smooth);
  for (const run of runs) {
    const curve = curveOf(run, metric);
    if (!curve || perStep(run) === null) {
      without.push(run);
      continue;
    }
    const label = lineOf(run);
    if (!groups.has(label)) groups.set(label, []);
    groups.get(label).push({ run, steps: curve.steps, values: smoothed(curve.values, weight) });
  }
  const counts = {};
  const order = Object.keys(DATA.functions);
  const lines = [...groups].map(([label, curves]) => ({ label, curves, attention: curves[0].run.attention }));
  lines.sort((a, b) => order.indexOf(a.attention) - order.indexOf(b.attention) || a.label.localeCompare(b.label));
  for (const line of lines) {
    line.index = counts[line.attention] = (counts[line.attention] ?? -1) + 1;
    line.runs = line.curves.map((curve) => curve.run);
    const scale = line.runs.reduce((sum, run) => sum + perStep(run), 0) / line.runs.length;
    const steps = [...new Set(line.curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b);
    line.points = steps.map((step) => pointAt(line.curves, step, scale));
    line.each = line.curves.map((curve) =>
      curve.steps.map((step, i) => ({ x: step * perStep(curve.run), step, mean: curve.values[i], n: 1 })));
  }
  return { lines, without };
}

function pointAt(curves, step, scale) {
  const values = curves.map((curve) => valueAt(curve, step)).filter((value) => value !== null);
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const point = { x: step * scale, step, mean, n, low: mean, high: mean };
  if (state.spread === "minmax") {
    point.low = Math.min(...values);
    point.high = Math.max(...values);
  } else if (state.spread === "sd" && n > 1) {
    point.sd = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
    point.low = mean - point.sd;
    point.high = mean + point.sd;
  }
  return point;
}
