// The rows of a table that are shown, in their order, as a CSV file.

function csvCell(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv(view, rows) {
  const columns = view.columns.map(({ key, value, text }) => [key, text ?? value]);
  const all = [...columns, ...(view.more?.(rows) ?? [])];
  const lines = [all.map(([name]) => name), ...rows.map((row) => all.map(([, of]) => of(row)))];
  return lines.map((line) => line.map(csvCell).join(",") + "\n").join("");
}

// All that is known of runs: their names, final metrics and configurations.
function moreOfRuns(runs) {
  const names = (part) => [...new Set(runs.flatMap((run) => Object.keys(run[part])))].sort();
  return [
    ["name", (run) => run.name],
    ...names("final").map((name) => [`final.${name}`, (run) => run.final[name]]),
    ...names("config").map((name) => [`config.${name}`, (run) => run.config[name]]),
  ];
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
