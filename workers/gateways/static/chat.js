// A chat over AG-UI. A conversation is {threadId, steps}: steps are the bodies of the runs since the user's last message,
// first the run of that message, then those that decided about tool calls. A run that is posted again publishes nothing.

import { authorization, signIn } from "./sign-in.js";

const RETRY_MS = 1000;
const at = (id) => document.getElementById(id);
const log = at("conversation");
const calls = {}; // tool call id: what is shown of the call
const results = {};
let conversation = JSON.parse(localStorage.getItem("petiole-chat") ?? "null") ?? begin();
let reading = null; // the AbortController of what is being read

function begin() {
  return { threadId: `chat-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`, steps: [] };
}

function addStep(steps, fields) {
  const ids = { threadId: conversation.threadId, runId: `run-${crypto.getRandomValues(new Uint32Array(2)).join("-")}` };
  conversation.steps = [...steps, { ...ids, messages: [], ...fields }];
  localStorage.setItem("petiole-chat", JSON.stringify(conversation));
}

// --- What is shown

function show(kind, id, text) {
  const element = document.createElement("div");
  element.className = kind;
  element.dataset.id = id;
  element.textContent = text;
  log.append(element);
  scrollDown();
  return element;
}

function find(id) {
  return [...log.children].find((element) => element.dataset.id === id);
}

function scrollDown() {
  log.parentElement.scrollTop = log.parentElement.scrollHeight;
}

function setStatus(text, { isRunning = true } = {}) {
  at("status").textContent = text;
  at("cancel").hidden = !isRunning;
}

// A text of the run that the snapshot does not have was retracted.
function showMessages(messages, run) {
  const ids = new Set(messages.map((message) => message.id));
  [...run.texts].filter((id) => !ids.has(id)).forEach((id) => find(id)?.remove());
  for (const { id, role, content } of messages) {
    if (content && ["user", "assistant"].includes(role) && !find(id)) show(role, id, content);
    if (role === "activity" && content.parts) showParts(id, content.parts);
  }
}

// A file of an answer is a link, if its address is one of the web. Data is shown as JSON.
function showParts(id, parts) {
  if (find(id)) return;
  const element = show("assistant", id, "");
  for (const { url, filename, data } of parts) {
    const isLink = /^https?:\/\//i.test(url ?? "");
    const line = document.createElement(isLink ? "a" : "code");
    line.textContent = filename || url || JSON.stringify(data);
    if (isLink) Object.assign(line, { href: url, target: "_blank", rel: "noopener noreferrer" });
    element.append(line, document.createElement("br"));
  }
}

function showTools(run) {
  for (const [id, { status, percent }] of Object.entries(run.state.tools ?? {})) {
    const element = find(`tool-${id}`);
    const progress = percent > 0 && percent < 100 ? `, ${percent} %` : "";
    if (element) element.textContent = `${calls[id]} (${status}${progress})${results[id] ?? ""}`;
  }
}

function askApproval({ id, message }) {
  if (find(`approval-${id}`)) return;
  const element = show("approval", `approval-${id}`, "");
  const question = document.createElement("p");
  question.textContent = `May this tool run? ${message}`;
  element.append(question, button("Approve", () => decide(id, true)), button("Deny", () => decide(id, false)));
  scrollDown();
}

function button(label, onclick) {
  return Object.assign(document.createElement("button"), { type: "button", textContent: label, onclick });
}

function closeApproval(id, decision) {
  const element = find(`approval-${id}`);
  if (element?.querySelector("button")) {
    element.querySelectorAll("button").forEach((each) => each.remove());
    element.append(decision);
  }
}

// --- Events of a run

const HANDLERS = {
  STATE_SNAPSHOT: (event, run) => {
    run.state = event.snapshot.petiole ?? {};
  },
  STATE_DELTA: (event, run) => {
    for (const { path, value } of event.delta) {
      const names = path.split("/").slice(2).map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
      const last = names.pop();
      names.reduce((object, name) => (object[name] ??= {}), run.state)[last] = value;
    }
    showTools(run);
    if (run.state.phase === "answering") setStatus("Writing …");
  },
  MESSAGES_SNAPSHOT: (event, run) => showMessages(event.messages, run),
  TEXT_MESSAGE_START: (event, run) => {
    run.texts.add(event.messageId);
    if (!find(event.messageId)) show("assistant", event.messageId, "");
    find(event.messageId).textContent = "";
  },
  TEXT_MESSAGE_CONTENT: (event) => {
    find(event.messageId).textContent += event.delta;
    scrollDown();
  },
  TOOL_CALL_START: (event) => {
    calls[event.toolCallId] = event.toolCallName;
  },
  TOOL_CALL_ARGS: (event) => {
    calls[event.toolCallId] += ` ${event.delta}`;
  },
  TOOL_CALL_END: ({ toolCallId }) => {
    if (!find(`tool-${toolCallId}`)) show("tool", `tool-${toolCallId}`, calls[toolCallId]);
  },
  TOOL_CALL_RESULT: (event) => {
    results[event.toolCallId] = `: ${event.content}`;
  },
  ACTIVITY_SNAPSHOT: ({ messageId, content }) => content.parts && showParts(messageId, content.parts),
  RUN_ERROR: (event) => show("problem", "", event.message),
  RUN_FINISHED: (event, run) => {
    run.interrupts = event.outcome?.interrupts ?? [];
  },
};

// --- Talking with the server

async function call(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
  if (response.status !== 401) return response;
  await signIn();
  return call(path, options);
}

function pathOf(step) {
  return `ag-ui/threads/${encodeURIComponent(step.threadId)}/runs/${encodeURIComponent(step.runId)}`;
}

// Read a run to its end. A connection that is lost is opened again, and goes on after the last event.
async function read(step, isPosted, signal) {
  const run = { texts: new Set(), state: {}, interrupts: [], lastId: "" };
  for (;;) {
    try {
      if (await readOnce(step, run, isPosted, signal)) return run;
    } catch (error) {
      if (signal.aborted || !(error instanceof TypeError)) throw error; // fetch raises TypeError for a lost connection
    }
    setStatus("The connection is lost. Trying again …");
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

// Returns whether the run is over. After a reload, a message's run is read by its address: that has the messages before it.
async function readOnce(step, run, isPosted, signal) {
  const after = run.lastId && { "Last-Event-ID": run.lastId };
  const post = { method: "POST", body: JSON.stringify(step), headers: { "Content-Type": "application/json", ...after } };
  const isRead = isPosted && !step.resume;
  const response = await call(isRead ? pathOf(step) : "ag-ui", { signal, ...(isRead ? { headers: { ...after } } : post) });
  if (isRead && response.status === 404) return readOnce(step, run, false, signal); // it was not posted yet
  if (response.status === 503) return false;
  if (!response.ok) return showProblem(response);
  setStatus("Thinking …");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return false;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      if (receive(block, run)) return true;
    }
  }
}

function receive(block, run) {
  const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
  if (!fields.data) return false; // a comment that keeps the connection open
  const event = JSON.parse(fields.data);
  HANDLERS[event.type]?.(event, run);
  run.lastId = fields.id ?? run.lastId;
  return ["RUN_FINISHED", "RUN_ERROR"].includes(event.type);
}

async function showProblem(response) {
  const { detail } = await response.json().catch(() => ({}));
  show("problem", "", detail ?? `The server answered with status ${response.status}.`);
  return true;
}

// Read steps of the conversation, which were posted before or are posted now.
async function follow(steps, { isPosted }) {
  reading?.abort();
  reading = new AbortController();
  const { signal } = reading;
  setStatus("");
  try {
    let run = { state: {}, interrupts: [] };
    for (const step of steps) {
      (step.resume ?? []).forEach(({ interruptId, payload }) => closeApproval(interruptId, payload.approved ? "Approved." : "Denied."));
      run = await read(step, isPosted, signal);
      run.interrupts.forEach(askApproval);
    }
    if (run.interrupts.length) setStatus("Waiting for your decision.");
    else setStatus(run.state.phase === "cancelled" ? "Cancelled." : "", { isRunning: false });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

// --- What the user does

function send() {
  const content = at("text").value.trim();
  if (!content) return;
  at("text").value = "";
  log.querySelectorAll(".approval").forEach((each) => closeApproval(each.dataset.id.replace("approval-", ""), "Not decided."));
  const message = { id: `message-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`, role: "user", content };
  addStep([], { messages: [message] });
  show("user", message.id, content);
  follow(conversation.steps, { isPosted: false });
}

function decide(interruptId, approved) {
  addStep(conversation.steps, { resume: [{ interruptId, status: "resolved", payload: { approved } }] });
  follow(conversation.steps.slice(-1), { isPosted: false });
}

async function cancel() {
  setStatus("Cancelling …");
  const response = await call(pathOf(conversation.steps[0]), { method: "DELETE" });
  if (!response.ok) return showProblem(response);
  log.querySelectorAll(".approval").forEach((each) => closeApproval(each.dataset.id.replace("approval-", ""), "Cancelled."));
  setStatus("Cancelled.", { isRunning: false });
}

at("write").onsubmit = (event) => {
  event.preventDefault();
  send();
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
};
at("cancel").onclick = cancel;
at("new").onclick = () => {
  reading?.abort();
  conversation = begin();
  localStorage.removeItem("petiole-chat");
  log.replaceChildren();
  setStatus("", { isRunning: false });
  at("text").focus();
};

if (conversation.steps.length) follow(conversation.steps, { isPosted: true });
