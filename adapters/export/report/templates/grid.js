"use strict";
// Lays entries out in tables: { variant, shot } by the axes of rows, of columns, and of the tables themselves.
// An axis has name, valueOf(entry), which is the place of its value, label(place) and full(place).
const grid = (() => {
  const mostCells = 60000;

  // Groups of entries that are equal on all axes: [places, entries], in the order of the places.
  function groups(entries, axes) {
    const found = new Map();
    for (const entry of entries) {
      const places = axes.map((axis) => axis.valueOf(entry));
      const key = places.join(" ");
      if (!found.has(key)) found.set(key, [places, []]);
      found.get(key)[1].push(entry);
    }
    const before = (one, other) => {
      const at = one.findIndex((place, index) => place !== other[index]);
      return at < 0 ? 0 : one[at] - other[at];
    };
    return [...found.values()].sort(([one], [other]) => before(one, other));
  }

  // The head of a variant, over those of its images that are in this cell.
  function variantOf(variant, entries) {
    const element = variant.element.cloneNode(false);
    for (const part of variant.parts) {
      const isPictures = part.classList.contains("pictures");
      element.append(part.cloneNode(!isPictures));
      if (isPictures) element.lastChild.append(...entries.map((entry) => entry.shot));
    }
    return element;
  }

  function cell(entries) {
    if (!entries.length) return made("td", made("span", "not in the sweep", "no-picture"));
    const variants = new Map();
    for (const entry of entries) {
      if (!variants.has(entry.variant)) variants.set(entry.variant, []);
      variants.get(entry.variant).push(entry);
    }
    return made("td", [...variants].map(([variant, own]) => variantOf(variant, own)));
  }

  function head(axis, place, scope) {
    const element = made("th", axis ? axis.label(place) : "");
    element.scope = scope;
    if (axis) element.title = axis.full(place);
    return element;
  }

  function table(entries, rows, columns) {
    const across = groups(entries, columns ? [columns] : []).map(([places]) => places[0]);
    const corner = made("th", [rows, columns].filter(Boolean).map((axis) => axis.name).join(" / "));
    corner.scope = "col";
    const top = made("thead", made("tr", [corner, ...across.map((place) => head(columns, place, "col"))]));
    const body = made("tbody", groups(entries, rows ? [rows] : []).map(([places, own]) => {
      const cells = new Map(groups(own, columns ? [columns] : []).map(([found, members]) => [found[0], members]));
      return made("tr", [head(rows, places[0], "row"), ...across.map((place) => cell(cells.get(place) ?? []))]);
    }));
    const frame = made("div", made("table", [top, body], "variants"), "wide");
    return frame;
  }

  // The sections for entries: a table for each combination of the other axes.
  function sections(entries, { rows, columns, others }) {
    return groups(entries, others).map(([places, own]) => {
      const title = others.map((axis, index) => `${axis.name} ${axis.label(places[index])}`).join(", ");
      return made("section", [...(title ? [made("h2", title)] : []), table(own, rows, columns)]);
    });
  }

  // Whether so many cells can be shown.
  function fits(entries, rows, columns) {
    const number = (axis) => (axis ? new Set(entries.map((entry) => axis.valueOf(entry))).size : 1);
    return number(rows) * number(columns) <= mostCells;
  }

  return { sections, fits };
})();
