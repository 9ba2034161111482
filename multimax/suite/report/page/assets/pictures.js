// Pictures side by side: those of each run that is shown, and the figures that lie beside the page.

function picture(title, path, ...more) {
  const image = h("img", { src: path, alt: title, loading: "lazy", decoding: "async" });
  const figure = h("figure", {}, link(path, image), h("figcaption", {}, ...(more.length ? more : [title])));
  image.addEventListener("load", () => figure.classList.toggle("wide", image.naturalWidth > 2.2 * image.naturalHeight));
  return figure;
}

function figureCard({ name, path, files }) {
  const best = files.includes(".svg") ? ".svg" : ".png";
  const nameOf = (suffix) => (suffix === ".json" ? "made from" : suffix.slice(1).toUpperCase());
  const links = files.map((suffix) => link(path + suffix, nameOf(suffix)));
  return picture(name, path + best, h("strong", {}, name.replaceAll("_", " ")), ...links);
}

function renderPictures(runs) {
  const kinds = [...new Set(DATA.runs.flatMap((run) => run.pictures.map(([kind]) => kind)))].sort();
  const gallery = $("gallery");
  $("pictures").hidden = !kinds.length && !DATA.figures.length;
  gallery.replaceChildren();
  if (kinds.length) {
    const kind = kinds.includes(state.picture) ? state.picture : kinds[0];
    const choose = (event) => { state.picture = event.target.value; render(["pictures"]); };
    const options = kinds.map((of) => h("option", { value: of, selected: of === kind }, of));
    const open = (run) => h("button", { type: "button", class: "open", onclick: () => show({ run: run.name }) },
      `${run.function}, seed ${run.seed}`);
    const found = runs.flatMap((run) => run.pictures.filter(([of]) => of === kind).map(([, path]) => [run, path]));
    gallery.append(
      h("label", {}, "Picture", h("select", { name: "picture", onchange: choose }, ...options)),
      h("div", { class: "pictures" }, ...found.map(([run, path]) => picture(`${kind} of ${run.name}`, path,
        swatch(run.attention), open(run), run.experiment))));
    if (!found.length) gallery.append(h("p", {}, "None of the runs that are shown has this picture."));
  }
  const own = (name) => !DATA.experiments[name] || !state.filters.experiment.size || state.filters.experiment.has(name);
  const ofExperiment = ({ name }) => Number(Object.hasOwn(DATA.experiments, name)); // the others come first
  const figures = DATA.figures.filter(({ name }) => own(name)).sort((a, b) => ofExperiment(a) - ofExperiment(b));
  gallery.append(h("div", { class: "pictures" }, ...figures.map(figureCard)));
}
