"use strict";
// The timeline: shows the title of a bar, moves by keyboard, and zooms.
(() => {
  const picture = document.getElementById("gantt");
  const scroll = document.getElementById("gantt-scroll");
  const readout = document.getElementById("readout");
  if (!picture) return;
  const silent = readout.textContent;
  const lanes = [...picture.querySelectorAll(".lane, .marks")]
    .map((lane) => [...lane.querySelectorAll("[data-seq]")].sort((one, other) => placeOf(one) - placeOf(other)))
    .filter((bars) => bars.length);
  const labels = [...picture.querySelectorAll(".lane-label")];
  let zoom = 1;
  let chosen = null;

  function placeOf(bar) {
    return parseFloat(bar.getAttribute("x"));
  }

  function showTitle(bar) {
    readout.textContent = bar ? bar.querySelector("title").textContent : silent;
  }

  function choose(bar) {
    chosen?.classList.remove("chosen");
    chosen = bar;
    bar.classList.add("chosen");
    const at = (placeOf(bar) / 100) * picture.clientWidth;
    if (at < scroll.scrollLeft || at > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = at - scroll.clientWidth / 2;
    showTitle(bar);
  }

  function nearest(bars, place) {
    return bars.reduce((best, bar) => (Math.abs(placeOf(bar) - place) < Math.abs(placeOf(best) - place) ? bar : best));
  }

  function step(key) {
    const lane = chosen ? lanes.findIndex((bars) => bars.includes(chosen)) : 0;
    const bars = lanes[lane];
    if (!chosen) return bars[0];
    const here = bars.indexOf(chosen);
    if (key === "ArrowRight") return bars[here + 1];
    if (key === "ArrowLeft") return bars[here - 1];
    if (key === "Home") return bars[0];
    if (key === "End") return bars[bars.length - 1];
    const other = lanes[lane + { ArrowDown: 1, ArrowUp: -1 }[key]];
    return other && nearest(other, placeOf(chosen));
  }

  function look(factor) {
    const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / picture.clientWidth;
    zoom = Math.min(256, Math.max(1, zoom * factor));
    picture.style.width = `${zoom * 100}%`;
    scroll.scrollLeft = middle * picture.clientWidth - scroll.clientWidth / 2;
    document.getElementById("zoom-shown").textContent = `${zoom}\u00d7`;
  }

  picture.addEventListener("pointerover", (over) => showTitle(over.target.closest("[data-seq], .cross")));
  picture.addEventListener("pointerleave", () => showTitle(chosen));
  picture.addEventListener("click", (click) => {
    const bar = click.target.closest("[data-seq]");
    if (bar) details.show(Number(bar.dataset.seq));
  });
  scroll.addEventListener("keydown", (press) => {
    if (!lanes.length) return;
    if (press.key === "Enter" && chosen) details.show(Number(chosen.dataset.seq));
    else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(press.key)) {
      const bar = step(press.key);
      if (bar) choose(bar);
    } else return;
    press.preventDefault();
  });
  scroll.addEventListener("scroll", () => {
    for (const label of labels) label.setAttribute("x", scroll.scrollLeft);
  }, { passive: true });
  document.getElementById("zoom-in").addEventListener("click", () => look(2));
  document.getElementById("zoom-out").addEventListener("click", () => look(0.5));
  document.querySelector(".zoom").hidden = false;
})();
