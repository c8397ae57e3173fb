"use strict";
// Shows an image in full size, and compares two. The pixels of linked files are closed to scripts of a page
// that comes from the disk, so differences are blended by the browser and never read.
//
// describe(element): { title, link, thumbnail, words, seed, digest, facts: [[name, text]] };
// neighbour(element, key): the next element in a direction, by ArrowLeft and the like, n or p, or undefined;
// event(element): a function that shows the event of an image, where the page has events.
function makeViewer({ describe, neighbour, event }) {
  const byId = (name) => document.getElementById(`viewer-${name}`);
  const dialog = document.getElementById("viewer");
  const [stage, frame, note, help] = ["stage", "frame", "note", "help"].map(byId);
  const [speed, amplify] = [byId("speed"), byId("amplify")];
  const [back, front] = ["back", "front"].map((name) => {
    const image = made("img");
    image.id = `viewer-${name}`;
    image.alt = "";
    frame.append(image);
    return image;
  });
  let current = null;
  let held = null;
  let mode = ""; // "", "flicker" or "difference"
  let isWhole = true; // the image has the size of the window
  let timer = 0;

  const compares = () => mode !== "" && held !== null && held !== current;

  function load(image, element) {
    const { link, thumbnail } = describe(element);
    image.dataset.fallback = "";
    image.dataset.wanted = link;
    const source = link || thumbnail;
    image.hidden = !source;
    if (!source) image.removeAttribute("src");
    else if (image.getAttribute("src") !== source) image.src = source;
    else tell();
  }

  // A file that is not there is replaced by its thumbnail, if there is one.
  function fall(image) {
    const element = image === front ? current : held;
    if (!image.getAttribute("src") || element === null) return;
    const { link, thumbnail } = describe(element);
    image.dataset.fallback = link;
    if (thumbnail && image.getAttribute("src") !== thumbnail) image.src = thumbnail;
    else image.hidden = true;
    tell();
  }

  function notes() {
    const found = [];
    for (const image of compares() ? [back, front] : [front]) {
      if (image.dataset.fallback) found.push(`${image === front ? "Its" : "The held image's"} file is not there: it, or this page, was moved, archived or removed.${image.hidden ? "" : " This is the thumbnail."}`);
    }
    if (mode !== "" && held === null) found.push("Hold an image first (m), then go to another.");
    else if (mode !== "" && held === current) found.push("This is the held image. Go to another to compare it.");
    if (!compares()) return found;
    const [one, other] = [describe(held), describe(current)];
    if (one.digest && one.digest === other.digest) found.push("Both are the same image, pixel by pixel.");
    if (one.seed !== other.seed) found.push(`The seeds differ: ${one.seed || "not known"} and ${other.seed || "not known"}.`);
    const sizes = [back, front].map((image) => `${image.naturalWidth}\u00d7${image.naturalHeight}`);
    if (back.naturalWidth && front.naturalWidth && sizes[0] !== sizes[1]) found.push(`The sizes differ: ${sizes.join(" and ")}; both are shown in the same size.`);
    return found;
  }

  // What is known of the image; what differs from the held one is shown of both.
  function facts() {
    const before = new Map(compares() ? describe(held).facts : []);
    const both = (name, text) => (before.has(name) && before.get(name) !== text ? `${before.get(name) || "(none)"} \u2192 ${text || "(none)"}` : text);
    return describe(current).facts.map(([name, text]) => [name, both(name, text)]).filter(([, text]) => text);
  }

  function tell() {
    const shown = describe(current);
    byId("title").textContent = compares() ? `A: ${describe(held).title}  |  B: ${shown.title}` : shown.title;
    note.textContent = notes().join(" ");
    byId("words").textContent = front.hidden && !front.dataset.fallback ? shown.words : "";
    fit();
  }

  function fit() {
    const ratio = window.devicePixelRatio || 1;
    const large = compares() && back.naturalWidth > front.naturalWidth ? back : front;
    frame.style.width = isWhole || !large.naturalWidth ? "" : `${large.naturalWidth / ratio}px`;
    frame.style.height = isWhole || !large.naturalHeight ? "" : `${large.naturalHeight / ratio}px`;
  }

  function swap() {
    if (!compares()) return;
    front.style.visibility = front.style.visibility === "hidden" ? "" : "hidden";
    stage.dataset.shown = front.style.visibility ? "A" : "B";
  }

  function press(key, isOn) {
    dialog.querySelector(`[data-key="${key}"]`).setAttribute("aria-pressed", String(isOn));
  }

  function refresh() {
    clearInterval(timer);
    front.style.visibility = "";
    delete stage.dataset.shown;
    back.hidden = true;
    if (compares()) load(back, held);
    load(front, current);
    stage.classList.toggle("comparing", compares());
    stage.classList.toggle("difference", compares() && mode === "difference");
    frame.style.filter = compares() && mode === "difference" ? `brightness(${amplify.value})` : "";
    if (compares() && mode === "flicker") timer = setInterval(swap, 1000 / Number(speed.value));
    for (const [key, isOn] of [["f", mode === "flicker"], ["d", mode === "difference"], ["m", held !== null && held === current], ["z", !isWhole]]) press(key, isOn);
    byId("facts").replaceChildren(...facts().map(([name, text]) => made("div", [made("dt", name), made("dd", text)])));
    dialog.querySelector('[data-key="e"]').hidden = !event?.(current);
    tell();
  }

  function open(element, asked = mode) {
    current = element;
    mode = asked;
    refresh();
    if (!dialog.open) dialog.showModal();
  }

  function hold(element) {
    held?.classList.remove("held");
    held = held === element ? null : element;
    held?.classList.add("held");
  }

  function step(select, by) {
    const places = select.options.length;
    select.selectedIndex = (select.selectedIndex + by + places) % places;
    refresh();
  }

  const acts = {
    z: () => { isWhole = !isWhole; refresh(); },
    m: () => { hold(current); refresh(); },
    f: () => { mode = mode === "flicker" ? "" : "flicker"; refresh(); },
    d: () => { mode = mode === "difference" ? "" : "difference"; refresh(); },
    a: () => step(amplify, 1),
    "+": () => { if (speed.selectedIndex < speed.options.length - 1) step(speed, 1); },
    "-": () => { if (speed.selectedIndex > 0) step(speed, -1); },
    " ": () => { clearInterval(timer); swap(); },
    e: () => event?.(current)?.(),
    "?": () => { help.hidden = !help.hidden; press("?", !help.hidden); },
    Escape: () => dialog.close(),
  };

  function act(key) {
    if (Object.hasOwn(acts, key)) acts[key]();
    else {
      const next = neighbour(current, key);
      if (next) open(next);
    }
  }

  dialog.addEventListener("click", (click) => {
    const button = click.target.closest("[data-key]");
    if (button) act(button.dataset.key);
    else if (click.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (pressed) => {
    const { key, target } = pressed;
    if (pressed.ctrlKey || pressed.metaKey || pressed.altKey || target.closest("select")) return;
    if ((key === " " && target.closest("button")) || key === "Escape") return;
    if (!Object.hasOwn(acts, key) && !/^(Arrow(Left|Right|Up|Down)|n|p)$/.test(key)) return;
    if (!isWhole && target === stage && key.startsWith("Arrow")) return; // scrolls
    act(key);
    pressed.preventDefault();
  });
  dialog.addEventListener("close", () => {
    clearInterval(timer);
    (current?.querySelector("a, [tabindex]") ?? current)?.focus();
  });
  for (const select of [speed, amplify]) select.addEventListener("change", refresh);
  for (const image of [back, front]) {
    image.addEventListener("load", tell);
    image.addEventListener("error", () => fall(image));
  }
  if (!event) dialog.querySelector('[data-for="e"]').hidden = true;

  // What a click or a key on an image of the page does.
  function take(element, isShift) {
    if (!isShift) open(element, held === null ? "" : mode);
    else if (held === null || held === element) hold(element);
    else open(element, mode || "flicker");
  }

  return { open, hold, take };
}
