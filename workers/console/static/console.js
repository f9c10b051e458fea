// Events as they happen, an answer while it is written, and a line while parts of a page cannot be read again.
// Texts are set as text, never as HTML.
"use strict";
(() => {
  const line = document.createElement("p");
  line.className = "warning";
  line.setAttribute("role", "status");
  line.textContent = "The page cannot be read again; what you see may be old. It is tried again.";
  const warn = () => document.getElementById("main").prepend(line);
  for (const failure of ["htmx:responseError", "htmx:sendError"]) document.body.addEventListener(failure, warn);
  document.body.addEventListener("htmx:afterSwap", () => line.remove());
})();
(() => {
  const MOST = 200;
  const list = document.getElementById("events");
  const state = document.getElementById("live-state");
  if (!list || !state || !window.EventSource) return;
  const known = new Set([...list.rows].map((row) => row.dataset.id)); // the page and the stream may have the same
  let skipped = 0;
  let paused = [];
  const say = (text) => { state.textContent = text + (skipped ? ` ${skipped} events were too fast to show.` : ""); };
  const cell = (row, text) => { const made = row.insertCell(); made.textContent = text; return made; };
  const show = (event) => {
    const row = list.insertRow(0);
    cell(row, new Date(event.at).toISOString().slice(11, 23)).className = "time";
    const link = document.createElement("a");
    link.href = list.dataset.conversation + encodeURIComponent(event.flow);
    link.textContent = event.topic;
    const origin = document.createElement("span");
    origin.className = "hint";
    origin.textContent = `${event.publisher} · ${event.stream.length > 40 ? event.stream.slice(0, 39) + "…" : event.stream}`;
    row.insertCell().append(link, " ", origin);
    while (list.rows.length > MOST) list.deleteRow(-1);
  };
  const source = new EventSource(list.dataset.source);
  source.onopen = () => say("Live.");
  source.onerror = () => say("The connection is lost; it is tried again.");
  source.addEventListener("recorded", (message) => {
    const event = JSON.parse(message.data);
    if (known.has(event.id)) return;
    // Nobody can click a line that moves: while the pointer is on the list, events wait.
    if (list.matches(":hover") || list.contains(document.activeElement)) paused = [...paused, event].slice(-MOST);
    else { paused.splice(0).forEach(show); show(event); }
  });
  source.addEventListener("skipped", (message) => { skipped += Number(message.data); say("Live."); });
  source.addEventListener("state", (message) => say(message.data));
  window.addEventListener("pagehide", () => source.close());
})();
(() => {
  const MOST = 100000;
  const section = document.getElementById("answer");
  if (!section || !window.EventSource) return;
  const text = section.querySelector(".answer");
  const state = section.querySelector("[role=status]");
  let answer = "";
  const begin = (id) => { answer = id; text.textContent = ""; };
  const source = new EventSource(section.dataset.source);
  const on = (kind, act) => source.addEventListener(kind, (message) => act(JSON.parse(message.data)));
  on("started", (chunk) => {
    begin(chunk.answer_id);
    state.textContent = chunk.attempt > 1 ? `is being written, attempt ${chunk.attempt}` : "is being written";
  });
  on("delta", (chunk) => {
    if (chunk.answer_id !== answer) begin(chunk.answer_id);
    text.textContent = (text.textContent + chunk.text).slice(-MOST);
  });
  for (const end of ["finished", "failed", "interrupted", "abandoned"]) on(end, () => { state.textContent = end; });
  source.onerror = () => { state.textContent = "the connection is lost; it is tried again"; };
  window.addEventListener("pagehide", () => source.close());
})();
