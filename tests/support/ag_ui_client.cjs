// The official client of AG-UI: runs a conversation against a server, or its verifier over recorded events.
//
//     node ag_ui_client.cjs FOLDER run URL < {"threadId", "messages", "runId", "resumeRunId"}
//     node ag_ui_client.cjs FOLDER verify < [event, …]
//
// Prints what the client has then, as JSON. FOLDER has node_modules with @ag-ui/client.
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");

const [folder, mode, url] = process.argv.slice(2);
const load = createRequire(`${folder}/`);
const { HttpAgent, verifyEvents } = load("@ag-ui/client");
const { from, lastValueFrom, toArray } = load("rxjs");
const input = JSON.parse(readFileSync(0, "utf8"));

async function run() {
  const agent = new HttpAgent({ url, threadId: input.threadId, initialMessages: input.messages });
  const outcomes = [];
  const subscriber = {
    onEvent: ({ event }) => {
      if (event.type === "RUN_FINISHED") outcomes.push(event.outcome);
    },
  };
  await agent.runAgent({ runId: input.runId }, subscriber);
  const resume = (outcomes[0].interrupts ?? []).map((interrupt) => ({
    interruptId: interrupt.id,
    status: "resolved",
    payload: { approved: true },
  }));
  if (resume.length) await agent.runAgent({ runId: input.resumeRunId, resume }, subscriber);
  return { messages: agent.messages, state: agent.state, outcomes: outcomes.map((outcome) => outcome.type) };
}

async function verify() {
  return { events: (await lastValueFrom(verifyEvents()(from(input)).pipe(toArray()))).length };
}

(mode === "run" ? run() : verify()).then((found) => console.log(JSON.stringify(found)));
