"use strict";
// The page of a group: its rows, columns and filters are chosen among the axes, and its images open.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const place = document.getElementById("grids");
  const form = document.getElementById("layout");
  const note = document.getElementById("layout-note");
  const entries = [];
  const entryOf = new Map();
  for (const element of place.querySelectorAll(".variant")) {
    const { at, number, run, state } = element.dataset;
    const variant = { element, number, run, state, at: at ? at.split(" ").map(Number) : [], parts: [...element.children] };
    for (const shot of element.querySelectorAll(".shot")) {
      const entry = { variant, shot };
      entries.push(entry);
      entryOf.set(shot, entry);
    }
  }

  const sweepAxes = data.axes.map((axis, index) => ({
    id: String(index),
    name: axis.name,
    valueOf: (entry) => entry.variant.at[index],
    label: (value) => axis.values[value][0],
    full: (value) => axis.values[value][1],
  }));
  const valuesOf = (variant) => sweepAxes.map((axis) => `${axis.name} ${axis.label(variant.at[Number(axis.id)])}`).join(", ");

  // An axis over what images have of their own, or undefined where that does not vary by itself.
  function imageAxis(name, id, key, label) {
    const texts = [...new Set(entries.map(({ shot }) => shot.dataset[key]))].sort((one, other) => (one === "") - (other === "") || Number(one) - Number(other));
    const within = new Map();
    for (const { variant, shot } of entries) {
      if (!within.has(variant)) within.set(variant, new Set());
      within.get(variant).add(shot.dataset[key]);
    }
    const varies = [...within.values()].some((own) => own.size > 1);
    const isSwept = data.axes.some((axis) => axis.keys.some((one) => one === key || one.endsWith(`.${key}`)));
    if (!varies && (isSwept || texts.length < 2)) return undefined;
    const places = new Map(texts.map((text, index) => [text, index]));
    const full = (value) => (texts[value] === "" ? "not known" : label(texts[value]));
    const cut = (text) => (text.length > 60 ? `${text.slice(0, 30)}\u2026${text.slice(-29)}` : text);
    return { id, name, valueOf: ({ shot }) => places.get(shot.dataset[key]), label: (value) => cut(full(value)), full };
  }

  const imageAxes = [
    imageAxis("image", "image", "number", (text) => `image ${text}`),
    imageAxis("seed", "seed", "seed", (text) => text),
    imageAxis("prompt", "prompt", "prompt", (text) => data.prompts[Number(text)] || "(empty)"),
  ].filter(Boolean);
  const variants = new Map(entries.map(({ variant }) => [Number(variant.number), variant]));
  const variantAxis = {
    id: "variant",
    name: "variant",
    valueOf: (entry) => Number(entry.variant.number),
    label: (value) => `${value}: ${valuesOf(variants.get(value))}`,
    full: (value) => `${value}: ${valuesOf(variants.get(value))}`,
  };
  const axes = [...sweepAxes, ...imageAxes];

  function select(name, label, options, chosen) {
    const element = made("select", options.map(([value, text]) => {
      const option = made("option", text);
      option.value = value;
      option.selected = value === chosen;
      return option;
    }));
    element.name = name;
    return made("label", [label, element]);
  }

  function makeForm() {
    const named = [...axes, variantAxis].map((axis) => [axis.id, axis.name]);
    form.append(select("rows", "Rows", [["", "(none)"], ...named], data.rows));
    form.append(select("columns", "Columns", [["", "(none)"], ...named], data.columns));
    for (const axis of axes) {
      const used = [...new Set(entries.map(axis.valueOf))].sort((one, other) => one - other);
      form.append(select(`only-${axis.id}`, axis.name, [["", "all"], ...used.map((value) => [String(value), axis.label(value)])], ""));
    }
    form.hidden = entries.length < 2;
  }

  const axisOf = (id) => [...axes, variantAxis].find((axis) => axis.id === id);
  const filterOf = (axis) => form.elements[`only-${axis.id}`];

  // The axes of rows and columns; they have no filter.
  function chosen() {
    const rows = axisOf(form.elements.rows.value);
    const columns = axisOf(form.elements.columns.value);
    for (const axis of axes) {
      const isPlaced = axis === rows || axis === columns;
      if (isPlaced) filterOf(axis).value = "";
      filterOf(axis).closest("label").hidden = isPlaced;
    }
    return [rows, rows === columns ? undefined : columns];
  }

  function layOut() {
    let [rows, columns] = chosen();
    const wanted = axes.filter((axis) => filterOf(axis).value !== "");
    const shown = entries.filter((entry) => wanted.every((axis) => String(axis.valueOf(entry)) === filterOf(axis).value));
    const tooMany = !grid.fits(shown, rows, columns);
    if (tooMany) columns = undefined;
    const isEach = rows === variantAxis || columns === variantAxis;
    const others = isEach ? [] : sweepAxes.filter((axis) => axis !== rows && axis !== columns && !wanted.includes(axis));
    const sections = grid.sections(shown, { rows, columns, others });
    place.replaceChildren(...(sections.length ? sections : [made("p", "No image has these values.", "quiet")]));
    const number = new Set(shown.map(({ variant }) => variant)).size;
    note.textContent = `${number} of ${variants.size} variants, ${shown.length} of ${entries.length} images.${tooMany ? " There are too many columns to show; filter first." : ""}`;
    roam(shots()[0]);
  }

  const shots = () => [...place.querySelectorAll(".shot")];
  const focusOf = (shot) => shot.querySelector("a, .no-picture");

  // One image at a time is reached by the tab key; arrow keys go on from it.
  function roam(shot) {
    for (const one of place.querySelectorAll('.shot [tabindex="0"]')) one.tabIndex = -1;
    if (shot) focusOf(shot).tabIndex = 0;
  }

  // The image of another cell that compares best with one: of its seed and number, else of its number.
  function counterpart(cell, { dataset: { seed, number } }) {
    const own = [...cell.querySelectorAll(".shot")];
    const fits = (shot) => 2 * (seed !== "" && shot.dataset.seed === seed) + (shot.dataset.number === number);
    return own.reduce((best, shot) => (fits(shot) > fits(best) ? shot : best), own[0]);
  }

  function neighbour(shot, key) {
    const all = shots();
    if (key === "n" || key === "p") return all[all.indexOf(shot) + (key === "n" ? 1 : -1)];
    const cell = shot.closest("td");
    const rows = [...place.querySelectorAll("tbody tr")];
    const isAcross = key === "ArrowLeft" || key === "ArrowRight";
    const line = isAcross ? [...cell.parentElement.cells] : rows.map((row) => row.cells[cell.cellIndex]);
    const by = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    for (let at = line.indexOf(cell) + by; at >= 0 && at < line.length; at += by) {
      if (line[at]?.querySelector(".shot")) return counterpart(line[at], shot);
    }
    return undefined;
  }

  function describe(shot) {
    const { variant } = entryOf.get(shot);
    const { number, seed, prompt, stage, size, digest, remark, rating, words } = shot.dataset;
    const source = shot.querySelector("img")?.getAttribute("src") ?? "";
    const link = shot.querySelector("a")?.getAttribute("href") ?? "";
    const values = sweepAxes.map((axis) => [axis.name, axis.full(variant.at[Number(axis.id)])]);
    return {
      title: `variant ${variant.number}${number && `, image ${number}`}`,
      link,
      thumbnail: source.startsWith("data:") ? source : "",
      words, seed, digest,
      facts: [
        ...values, ["seed", seed], ["prompt", prompt === "" ? "" : data.prompts[Number(prompt)]], ["stage", stage],
        ["size", size], ["run", variant.run], ["state", variant.state], ["rated", rating], ["remark", remark], ["file", link],
      ],
    };
  }

  const viewer = makeViewer({ describe, neighbour });

  place.addEventListener("click", (click) => {
    const shot = click.target.closest(".shot");
    if (!shot || click.ctrlKey || click.metaKey) return;
    roam(shot);
    viewer.take(shot, click.shiftKey);
    click.preventDefault();
  });
  place.addEventListener("keydown", (press) => {
    const shot = press.target.closest(".shot");
    if (!shot || press.ctrlKey || press.metaKey || press.altKey) return;
    if (press.key === "Enter") viewer.take(shot, press.shiftKey);
    else if (press.key === "m") viewer.hold(shot);
    else if (press.key.startsWith("Arrow")) {
      const next = neighbour(shot, press.key);
      if (next) { roam(next); focusOf(next).focus(); }
    } else return;
    press.preventDefault();
  });
  // A linked picture whose file has gone; errors do not bubble.
  place.addEventListener("error", ({ target }) => {
    if (target.tagName === "IMG") target.replaceWith(made("span", "the file is not there: it, or this page, was moved, archived or removed", "no-picture"));
  }, true);

  for (const shot of shots()) focusOf(shot).tabIndex = -1;
  makeForm();
  chosen();
  form.addEventListener("change", layOut);
  form.addEventListener("submit", (submit) => submit.preventDefault());
  roam(shots()[0]);
  document.documentElement.dataset.ready = "yes";
})();
