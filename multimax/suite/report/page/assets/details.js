// What lies behind a row: all about a run, two runs side by side, or a finding.

const NO_COMMAND = "It was not noted when this run was started: train.py with the configuration below.";

// what: {run}, {run, with} or {finding}; nothing closes the dialog.
function show(what) {
  Object.assign(state, { run: "", with: "", finding: "" }, what);
  writeAddress();
  renderDetails();
}

function renderDetails() {
  const dialog = $("details");
  const content = state.finding ? findingDetails() : state.with ? twoRuns() : runDetails();
  if (!content) {
    if (dialog.open) dialog.close();
    return;
  }
  dialog.replaceChildren(...content.filter((part) => part !== null));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function dialogHead(title) {
  const close = () => $("details").close();
  return [h("header", {}, h("h2", { id: "details-title" }, ...breakable(title)),
    h("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "×"))];
}

function pairs(entries) {
  return h("dl", {}, ...entries.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function runDetails() {
  const run = DATA.runs.find((run) => run.name === state.run);
  if (!run) return null;
  const { description } = DATA.experiments[run.experiment];
  const of = run.of_steps ? ` of ${run.of_steps}` : "";
  const progress = run.status === "finished" ? plural(run.step, "step") : `${run.status} at step ${run.step}${of}`;
  const final = Object.entries(run.final).map(([name, value]) => [name, plain(value, 5)]);
  const text = (value) => (value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value));
  return [
    ...dialogHead(run.name),
    h("p", {}, description),
    compareChoice(run),
    pairs([
      ["function", [swatch(run.attention), run.function]],
      ["experiment", run.experiment],
      ["task, scale, seed", `${run.task}, ${run.scale}, ${run.seed}`],
      ["progress", progress],
      ["time", duration(run.seconds_per_step * run.step) || "not known"],
      ...Object.entries(run.facts),
      ...(run.folder ? [["files", link(run.folder, run.folder)]] : []),
    ]),
    h("h3", {}, "The command that repeats it"),
    run.command ? commandBox(run.command) : h("p", {}, NO_COMMAND),
    run.command?.includes("data.root=PATH") ? h("p", { class: "note" }, "PATH is the folder of the data.") : null,
    ...(final.length ? [h("h3", {}, "Final metrics"), pairs(final)] : []),
    run.pictures.length ? h("h3", {}, "Pictures") : null,
    ...run.pictures.map(([kind, path]) => picture(kind, path)),
    h("details", { class: "config" }, h("summary", {}, "Configuration"),
      pairs(Object.entries(run.config).map(([name, value]) => [name, text(value)]))),
  ];
}

function commandBox(command) {
  const code = h("code", { tabindex: 0 }, command);
  const select = () => getSelection().selectAllChildren(code);
  const copy = async (event) => {
    select();
    try {
      await navigator.clipboard.writeText(command);
      event.target.textContent = "Copied";
    } catch {
      event.target.textContent = "Selected";
    }
  };
  return h("div", { class: "command" }, code, h("button", { type: "button", onclick: copy }, "Copy"));
}

function makeDetails() {
  $("details").addEventListener("close", () => {
    if (state.run || state.finding) show({});
  });
  $("details").addEventListener("click", (event) => {
    if (event.target === $("details")) $("details").close(); // the backdrop
  });
}
