"use strict";
// A click on an image opens it in full size; arrow keys go to its neighbours, and to its other stages.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const tiles = [...document.querySelectorAll(".tile")];
  const frameOf = (tile) => tile.querySelector(".frame");
  const placeOf = (tile) => tile.closest("article, section");
  const places = [...new Set(tiles.map(placeOf))];

  function describe(tile) {
    const { link, path, title, seed, prompt, digest } = tile.dataset;
    const words = [...tile.querySelectorAll(".no-picture, .flaw, .remark, .rating")].map((part) => part.textContent);
    const stage = placeOf(tile).querySelector(".stage-id")?.textContent ?? "";
    return {
      title: [stage, `${stage && "image "}${title}`].filter(Boolean).join(", "),
      link, seed, digest,
      thumbnail: tile.querySelector("img")?.getAttribute("src") ?? "",
      words: words.join("\n"),
      facts: [
        ["seed", seed], ["prompt", prompt === "" ? "" : data.prompts[Number(prompt)]], ["file", path],
        ["remark", [...new Set(words)].join("; ")],
      ],
    };
  }

  // In the viewer: left and right within a stage, up and down the same image of another stage.
  function neighbour(tile, key) {
    const by = { ArrowLeft: -1, ArrowRight: 1, p: -1, n: 1 }[key];
    if (by) {
      const next = tiles[tiles.indexOf(tile) + by];
      return next && (key.length === 1 || placeOf(next) === placeOf(tile)) ? next : undefined;
    }
    const step = key === "ArrowDown" ? 1 : -1;
    for (let at = places.indexOf(placeOf(tile)) + step; places[at]; at += step) {
      const same = tiles.find((one) => placeOf(one) === places[at] && one.dataset.title === tile.dataset.title);
      if (same) return same;
    }
    return undefined;
  }

  // On the page: the tile that is seen on that side.
  function beside(tile, key) {
    const across = getComputedStyle(tile.parentElement).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[key];
    return step ? tiles[tiles.indexOf(tile) + step] : undefined;
  }

  const event = (tile) => (tile.closest(".stage") ? () => details.show(Number(tile.dataset.seq), tile) : undefined);
  const viewer = makeViewer({ describe, neighbour, event });

  for (const list of document.querySelectorAll(".tiles")) {
    for (const tile of list.children) {
      const frame = frameOf(tile);
      frame.setAttribute("role", "button");
      frame.setAttribute("aria-haspopup", "dialog");
      frame.tabIndex = tile === list.firstElementChild ? 0 : -1;
    }
  }
  document.addEventListener("click", (click) => {
    const tile = click.target.closest(".tile .frame")?.closest(".tile");
    if (!tile || click.ctrlKey || click.metaKey) return;
    viewer.take(tile, click.shiftKey);
    click.preventDefault();
  });
  document.addEventListener("keydown", (press) => {
    const tile = press.target.closest(".tile .frame")?.closest(".tile");
    if (!tile || press.ctrlKey || press.metaKey || press.altKey) return;
    const next = beside(tile, press.key);
    if (press.key === "Enter" || press.key === " ") viewer.take(tile, press.shiftKey);
    else if (press.key === "m") viewer.hold(tile);
    else if (next) frameOf(next).focus();
    else return;
    press.preventDefault();
  });
})();
