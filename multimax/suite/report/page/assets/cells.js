// What cells of tables are made of.

const VERDICTS = {
  reproduced: ["good", "✓"], supported: ["good", "✓"], better: ["good", "▲"], "supported, below the margin": ["open", "✓"],
  "not reproduced": ["bad", "✗"], contradicted: ["bad", "✗"], "no gain above the margin": ["bad", "≤"],
  "no gain above the margin, a loss": ["bad", "≤"],
  inconclusive: ["open", "~"], "too close to tell": ["open", "~"], "not tested": ["none", "–"], "not run": ["none", "○"],
  "not available": ["none", "–"],
};

// A column: key, title, value(row) to sort and search by, cell(row) to show and text(row) to download where these differ.
const column = (key, title, value, cell = null, text = null) => ({ key, title, value, cell, text, numeric: false });
const numbers = (...all) => ({ ...column(...all), numeric: true });

const attentionOf = new Map(DATA.runs.map((run) => [run.function, run.attention]));

function functionCell(row) {
  return [swatch(attentionOf.get(row.function)), h("span", {}, ...breakable(labelOf(row)))];
}

function intervalText(bounds, sign = false) {
  return bounds ? `${fixed(bounds[0], 2, sign)} to ${fixed(bounds[1], 2, sign)}` : "";
}

// A verdict, and behind a colon what belongs to it, such as the effect that would have been seen; null for other words.
function verdictCell(text) {
  const [verdict, more] = text.split(/: (.*)/s);
  const [kind, mark] = VERDICTS[verdict] ?? [];
  if (!kind) return null;
  return [h("span", { class: `verdict ${kind}` }, `${mark} ${verdict}`),
    more ? h("span", { class: "note" }, ` ${more}`) : null];
}

function madeCell(text, name) {
  const verdict = verdictCell(text);
  if (verdict) return verdict;
  if (/^`.*`$/.test(text)) return h("code", {}, text.slice(1, -1));
  const attention = attentionOf.get(text) ?? (Object.hasOwn(DATA.functions, text) ? text : null);
  if ((name === "function" || name === "against") && attention) return [swatch(attention), h("span", {}, text)];
  return text;
}
