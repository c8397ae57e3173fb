"use strict";
// The events that the page carries: blocks of base64 of zlib streams, one line for each event.
const eventLog = (() => {
  const blocks = [];
  let total = 0;
  for (const element of document.querySelectorAll("script.event-block")) {
    const count = Number(element.dataset.count);
    blocks.push({ from: total, count, element, lines: null });
    total += count;
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return (await new Response(inflated).text()).split("\n");
  }

  function linesOf(block) {
    if (block.lines === null) {
      block.lines = unpack(block.element.textContent);
      block.element.textContent = "";
    }
    return block.lines;
  }

  function eventOf(seq, line) {
    const tab = line.indexOf("\t");
    const [type, stage, seconds, time, summary, size] = JSON.parse(line.slice(0, tab));
    return { seq, type, stage, seconds, time, summary, size, raw: line.slice(tab + 1) };
  }

  // The event with a sequence number.
  async function at(seq) {
    const block = blocks.find((one) => seq < one.from + one.count);
    return eventOf(seq, (await linesOf(block))[seq - block.from]);
  }

  return { blocks, total, linesOf, eventOf, at };
})();

// JSON text exactly as in the log, but indented.
const jsonText = (() => {
  const token = /"(?:[^"\\]|\\.)*"?|[{}[\],:]|[^\s"{}[\],:]+/g;
  const hidden = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

  function visible(text) {
    return text.replace(hidden, (letter) => "\\u" + letter.charCodeAt(0).toString(16).padStart(4, "0"));
  }

  function indented(text) {
    const parts = [];
    let depth = 0;
    let before = "";
    const line = () => "\n" + "  ".repeat(Math.min(depth, 40));
    for (const [part] of text.matchAll(token)) {
      const closes = part === "}" || part === "]";
      if (closes) depth -= 1;
      const empty = closes && (before === "{" || before === "[");
      if ((closes && !empty) || (!closes && (before === "{" || before === "[" || before === ","))) parts.push(line());
      parts.push(part === ":" ? ": " : part);
      if (part === "{" || part === "[") depth += 1;
      before = part;
    }
    return visible(parts.join(""));
  }

  // The text of one member of the outermost object, or null.
  function member(text, name) {
    let depth = 0;
    let key = null;
    let begin = -1;
    let before = "";
    for (const found of text.matchAll(token)) {
      const part = found[0];
      if (begin >= 0 && depth === 1 && (part === "," || part === "}")) return text.slice(begin, found.index);
      if (depth === 1 && part === ":" && begin < 0) {
        if (key === JSON.stringify(name)) begin = found.index + 1;
      } else if (depth === 1 && (before === "{" || before === ",")) key = part;
      if (part === "{" || part === "[") depth += 1;
      if (part === "}" || part === "]") depth -= 1;
      before = part;
    }
    return null;
  }

  return { indented, member, visible };
})();
