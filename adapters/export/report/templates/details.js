"use strict";
// Shows an event: that of a bar of the timeline, or of an image.
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

  return { show, cutNote };
})();
