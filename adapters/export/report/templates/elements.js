"use strict";
// Elements made by scripts, and times in the reader's zone.
// A moment in the reader's zone, as 2026-11-20 23:52:26.123, and in UTC.
const timeText = (() => {
  const written = (moment) => moment.toISOString().replace("T", " ").replace("Z", "");
  const local = (text) => {
    const moment = new Date(text);
    return written(new Date(moment.getTime() - moment.getTimezoneOffset() * 60000));
  };
  return { local, utc: (text) => `${written(new Date(text))} UTC` };
})();

function madeTime(text, moment) {
  const element = made("time", text);
  element.dateTime = moment;
  element.title = timeText.utc(moment);
  return element;
}

for (const element of document.querySelectorAll("time")) {
  element.replaceWith(madeTime(timeText.local(element.dateTime).slice(0, -4), element.dateTime));
}
for (const element of document.querySelectorAll("[data-moment]")) {
  const { moment } = element.dataset;
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = timeText.utc(moment);
  element.textContent = element.textContent.replace(/\d\d:\d\d:\d\d.*/, timeText.local(moment).slice(-12, -4));
  element.append(title);
}

function made(name, content, className) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...(Array.isArray(content) ? content : [content ?? ""]));
  return element;
}
