// Events as they happen: a line for each, at most MOST of them. Texts are set as text, never as HTML.
"use strict";
(() => {
  const MOST = 200;
  const list = document.getElementById("events");
  const state = document.getElementById("live-state");
  if (!list || !state || !window.EventSource) return;
  let skipped = 0;
  let paused = [];
  const say = (text) => { state.textContent = text + (skipped ? ` ${skipped} events were too fast to show.` : ""); };
  const cell = (row, text) => { const made = row.insertCell(); made.textContent = text; return made; };
  const show = (event) => {
    const row = list.insertRow(0);
    cell(row, new Date(event.at).toISOString().replace("T", " ").replace("Z", ""));
    const link = document.createElement("a");
    link.href = list.dataset.conversation + encodeURIComponent(event.flow);
    link.textContent = event.topic;
    row.insertCell().append(link);
    cell(row, event.publisher);
    cell(row, event.stream.length > 80 ? event.stream.slice(0, 79) + "…" : event.stream);
    while (list.rows.length > MOST) list.deleteRow(-1);
  };
  const source = new EventSource(list.dataset.source);
  source.onopen = () => say("Live.");
  source.onerror = () => say("The connection is lost; it is tried again.");
  source.addEventListener("recorded", (message) => {
    const event = JSON.parse(message.data);
    // Nobody can click a line that moves: while the pointer is on the list, events wait.
    if (list.matches(":hover") || list.contains(document.activeElement)) paused = [...paused, event].slice(-MOST);
    else { paused.splice(0).forEach(show); show(event); }
  });
  source.addEventListener("skipped", (message) => { skipped += Number(message.data); say("Live."); });
  window.addEventListener("pagehide", () => source.close());
})();
