"use strict";
// A click on an image, or on a bar of the timeline, shows its event.
const details = (() => {
  const dialog = document.getElementById("details");
  const title = document.getElementById("details-title");
  const body = document.getElementById("details-body");

  function cutNote(event) {
    const shown = new TextEncoder().encode(event.raw).length;
    return shown < event.size ? `The first ${shown} of ${event.size} bytes; the log has the rest.` : "";
  }

  function jsonBlock(heading, text) {
    const pre = made("pre", jsonText.indented(text));
    pre.tabIndex = 0;
    return [made("h3", heading), pre];
  }

  // An error with its message and detail, with line breaks.
  function errorBlock(error) {
    try {
      const parsed = JSON.parse(error);
      const pre = made("pre", jsonText.visible(`${parsed.kind}: ${parsed.message}\n${parsed.detail ?? ""}`));
      pre.tabIndex = 0;
      return [made("h3", "What went wrong"), pre];
    } catch {
      return []; // null or cut; the whole event follows in any case
    }
  }

  function pictured(tile) {
    const frame = made("div", [], "pictured");
    const image = tile.querySelector("img");
    if (image) frame.append(image.cloneNode());
    const words = [...tile.querySelectorAll("p")].map((part) => part.cloneNode(true));
    frame.append(made("div", [made("p", made("code", jsonText.visible(tile.dataset.path))), ...words]));
    return frame;
  }

  async function show(seq, tile) {
    const event = await eventLog.at(seq);
    title.textContent = `${event.type} (event ${event.seq}), ${event.summary}`;
    body.replaceChildren();
    if (tile) body.append(pictured(tile));
    body.append(made("p", [madeTime(timeText.local(event.time), event.time), `, ${event.seconds} s since the start`], "quiet"));
    const hasInfo = event.type === "CallCompleted" || event.type === "CallReused";
    const info = hasInfo ? jsonText.member(event.raw, "info") : null;
    const error = jsonText.member(event.raw, "error");
    if (info) body.append(...jsonBlock("Used, as reported by the backend", info));
    if (error) body.append(...errorBlock(error));
    body.append(...jsonBlock("The whole event", event.raw), made("p", cutNote(event), "quiet"));
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  dialog.addEventListener("click", (click) => { if (click.target === dialog) dialog.close(); });

  function frameOf(target) {
    return target.closest(".tile .frame");
  }

  function open(frame) {
    const tile = frame.closest(".tile");
    show(Number(tile.dataset.seq), tile);
  }

  function neighbour(tile, key) {
    const tiles = [...document.querySelectorAll(".tile")];
    const here = tiles.indexOf(tile);
    const across = getComputedStyle(tile.parentElement).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[key];
    return step ? tiles[here + step] : undefined;
  }

  for (const list of document.querySelectorAll(".tiles")) {
    for (const frame of list.querySelectorAll(".frame")) {
      frame.setAttribute("role", "button");
      frame.setAttribute("aria-haspopup", "dialog");
      frame.tabIndex = frame.closest(".tile") === list.firstElementChild ? 0 : -1;
    }
  }
  document.addEventListener("click", (click) => {
    const frame = frameOf(click.target);
    if (frame) open(frame);
  });
  document.addEventListener("keydown", (press) => {
    const frame = frameOf(press.target);
    if (!frame) return;
    const next = neighbour(frame.closest(".tile"), press.key)?.querySelector(".frame");
    if (press.key === "Enter" || press.key === " ") open(frame);
    else if (next) next.focus();
    else return;
    press.preventDefault();
  });

  return { show, cutNote };
})();
