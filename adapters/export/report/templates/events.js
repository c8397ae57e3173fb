"use strict";
// The table of events: filtered, a page at a time.
(() => {
  const pageSize = 100;
  const form = document.getElementById("filters");
  const rows = document.getElementById("event-rows");
  const status = document.getElementById("event-count");
  const pageNumber = document.getElementById("page-number");
  const pageCount = document.getElementById("page-count");
  const buttons = ["first", "before", "next", "last"].map((name) => document.getElementById(`page-${name}`));
  let found = null; // places of the events that fit, or null for all of them
  let page = 0;
  let search = 0;

  const isProblem = (event) => event.type === "CallFailed" || event.type === "LogRepaired"
    || event.type === "CancelRequested"
    || (event.type === "LifecycleChanged" && /"dest":\s*"(ERROR|CANCELLED)"/.test(event.raw));

  const count = () => (found === null ? eventLog.total : found.length);
  const pages = () => Math.max(1, Math.ceil(count() / pageSize));

  // What finds a text in a line, or null for none. A line is JSON: a quote or backslash in it is escaped, and
  // so is a line end, which a text that is typed or pasted has a space for.
  function patternOf(text) {
    const literal = (part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\s+/g, "(?:\\s|\\\\[nrt])+");
    const parts = new Set([text, JSON.stringify(text).slice(1, -1)]);
    return text ? new RegExp([...parts].map(literal).join("|"), "i") : null;
  }

  function asked() {
    const { type, stage, text } = form.elements;
    return { type: type.value, stage: stage.value, text: patternOf(text.value.trim()) };
  }

  function fits(line, want) {
    if (want.text && !want.text.test(line)) return false;
    if (!want.type && !want.stage) return true;
    const event = eventLog.eventOf(0, line);
    if (want.stage && event.stage !== want.stage) return false;
    return !want.type || (want.type === "problems" ? isProblem(event) : want.type === "=" + event.type);
  }

  async function filter() {
    const mine = ++search;
    const want = asked();
    if (!want.type && !want.stage && !want.text) found = null;
    else {
      const places = [];
      for (const block of eventLog.blocks) {
        const lines = await eventLog.linesOf(block);
        if (mine !== search) return;
        lines.forEach((line, place) => { if (fits(line, want)) places.push(block.from + place); });
      }
      found = places;
    }
    page = 0;
    await show();
  }

  function rowOf(event) {
    const open = made("button", String(event.seq), "open");
    open.type = "button";
    open.setAttribute("aria-expanded", "false");
    open.setAttribute("aria-label", `Event ${event.seq}, show all of it`);
    const row = made("tr", [
      made("td", open, "number"), made("td", madeTime(timeText.local(event.time).slice(-12), event.time)), made("td", event.seconds.toFixed(3), "number"),
      made("td", event.type), made("td", event.stage), made("td", event.summary, "what"),
    ], isProblem(event) ? "problem" : "");
    open.addEventListener("click", () => toggle(open, row, event));
    return row;
  }

  function toggle(open, row, event) {
    const shown = open.getAttribute("aria-expanded") === "true";
    open.setAttribute("aria-expanded", String(!shown));
    if (shown) row.nextElementSibling.remove();
    else {
      const pre = made("pre", jsonText.indented(event.raw));
      pre.tabIndex = 0;
      const cell = made("td", [pre, made("p", details.cutNote(event), "quiet")]);
      cell.colSpan = 6;
      row.after(made("tr", cell, "event-detail"));
    }
  }

  async function show() {
    const mine = search;
    page = Math.min(Math.max(0, page), pages() - 1);
    const from = page * pageSize;
    const to = Math.min(from + pageSize, count());
    const events = [];
    for (let place = from; place < to; place += 1) events.push(await eventLog.at(found === null ? place : found[place]));
    if (mine !== search) return;
    rows.replaceChildren(...events.map(rowOf));
    const numbers = (value) => value.toLocaleString("en");
    const of = found === null ? "" : ` that match, of ${numbers(eventLog.total)}`;
    const none = found === null ? "There is no event." : "No event matches.";
    status.textContent = to ? `${numbers(from + 1)} to ${numbers(to)} of ${numbers(count())} events${of}` : none;
    pageNumber.value = page + 1;
    pageNumber.max = pages();
    pageCount.textContent = `of ${numbers(pages())}`;
    buttons.forEach((button, place) => { button.disabled = place < 2 ? page === 0 : page === pages() - 1; });
  }

  function turnTo(number) {
    page = number;
    return show();
  }

  let waiting = 0;
  form.addEventListener("input", (change) => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, change.target.name === "text" ? 150 : 0);
  });
  form.addEventListener("submit", (submit) => submit.preventDefault());
  pageNumber.addEventListener("change", () => turnTo((Number(pageNumber.value) || 1) - 1));
  [() => 0, () => page - 1, () => page + 1, () => pages() - 1].forEach((number, place) => {
    buttons[place].addEventListener("click", () => turnTo(number()));
  });
  form.hidden = false;
  document.getElementById("event-list").hidden = false;
  show().then(() => { document.documentElement.dataset.ready = "yes"; });
})();
