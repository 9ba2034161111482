// All parts together. Whatever changes is redrawn from the state; nothing else is kept.

function render(parts = ["findings", "filters", "panels", "table", "pictures"]) {
  writeAddress();
  const runs = DATA.runs.filter((run) => chosen(run));
  renderOptions();
  if (parts.includes("filters")) {
    renderFilters();
    const all = plural(DATA.runs.length, "run");
    const different = (name) => new Set(runs.map((run) => run[name])).size;
    const kinds = ["function", "experiment", "task"].map((name) => plural(different(name), name));
    const shown = runs.length === DATA.runs.length ? all : `${runs.length} of ${all}`;
    $("counts").textContent = [shown, ...kinds].join(", ");
  }
  if (parts.includes("findings")) renderFindings();
  if (parts.includes("panels")) renderPanels(runs);
  if (parts.includes("table")) renderTable();
  if (parts.includes("pictures")) renderPictures(runs);
}

function jump(id) {
  $(id).scrollIntoView();
  $(id).focus({ preventScroll: true });
}

function begin() {
  $("title").textContent = DATA.title.toLowerCase();
  document.title = `MultiMax: ${DATA.title.toLowerCase()}`;
  $("made-by").textContent = DATA.made_by;
  $("problems").replaceChildren(...DATA.problems.map((problem) => h("p", { class: "problem" }, problem)));
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    jump("curves");
  });
  readAddress();
  if (!KEYS.includes(state.group)) state.group = "";
  makeFindings();
  makeFilters();
  makeOptions();
  makeTableBar();
  makeDetails();
  render();
  renderDetails();
  const sections = ["findings", "curves", "results", "pictures"].filter((id) => !$(id).hidden);
  document.querySelector("nav").append(...sections.map((id) =>
    h("button", { type: "button", onclick: () => jump(id) }, $(`${id}-title`).textContent)));
  addEventListener("hashchange", () => {
    readAddress();
    if (!KEYS.includes(state.group)) state.group = "";
    render();
    renderDetails();
  });
}

begin();
