// All parts together. What changes is drawn anew from the state; nothing else is kept.

function render(parts = ["filters", "panels", "table", "pictures"]) {
  writeAddress();
  const runs = DATA.runs.filter((run) => chosen(run));
  renderOptions();
  if (parts.includes("filters")) {
    renderFilters();
    const count = (name) => new Set(runs.map((run) => run[name])).size;
    const all = runs.length === DATA.runs.length ? "" : ` of ${DATA.runs.length}`;
    $("counts").textContent = `${runs.length}${all} ${DATA.runs.length === 1 ? "run" : "runs"}, ${plural(count("function"), "function")}, ${plural(count("experiment"), "experiment")}, ${plural(count("task"), "task")}`;
  }
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
  makeFilters();
  makeOptions();
  makeTableBar();
  makeDetails();
  render();
  renderDetails();
  document.querySelector("nav").append(...["curves", "results", "pictures"].filter((id) => !$(id).hidden).map((id) => h("button", { type: "button", onclick: () => jump(id) }, $(`${id}-title`).textContent)));
  addEventListener("hashchange", () => {
    readAddress();
    render();
    renderDetails();
  });
}

begin();
