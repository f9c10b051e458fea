// Sends the microphone's sound over the WebSocket of workers/gateways/voice.py, shows what is heard and answered, and
// plays the answers. The stream's id stands behind the # of the address: who loads the page again goes on in it.

import { authorization, cancelSignIn, signIn, subprotocols } from "./sign-in.js";

const PREFERRED_RATE = 16000;
const MAX_BUFFERED_BYTES = 320000; // ten seconds: sound that is later than this is no conversation

const element = (id) => document.getElementById(id);
let call = null;

class Player {
  // Plays chunks one after the other.

  constructor(context, onIdle) {
    this.context = context;
    this.onIdle = onIdle;
    this.sources = new Set();
    this.end = 0;
  }

  play(pcm, rate) {
    const samples = new Int16Array(pcm);
    const buffer = this.context.createBuffer(1, samples.length, rate);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.onended = () => this.sources.delete(source) && !this.sources.size && this.onIdle();
    this.sources.add(source);
    this.end = Math.max(this.end, this.context.currentTime);
    source.start(this.end);
    this.end += buffer.duration;
  }

  empty() {
    for (const source of this.sources) source.stop();
    this.sources.clear();
    this.end = 0;
  }
}

class Call {
  // One use of the microphone, and the connection that goes on after it for as long as the server keeps it.

  isMuted = false;
  isUserSpeaking = false;
  isConnected = false;

  async begin() {
    const constraints = { channelCount: 1, echoCancellation: true, noiseSuppression: true };
    this.microphone = await navigator.mediaDevices.getUserMedia({ audio: constraints });
    this.source = this.openContext();
    await this.context.audioWorklet.addModule("voice-capture.js");
    this.capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    this.player = new Player(this.context, () => this.showState());
    await this.connect();
    this.capture.port.onmessage = (message) => this.send(message.data);
    this.source.connect(this.capture);
  }

  openContext() {
    // Some browsers take a microphone only at its own rate.
    try {
      this.context = new AudioContext({ sampleRate: PREFERRED_RATE });
      return this.context.createMediaStreamSource(this.microphone);
    } catch {
      this.context.close();
      this.context = new AudioContext();
      return this.context.createMediaStreamSource(this.microphone);
    }
  }

  async connect() {
    const path = `../streams/${encodeURIComponent(streamId())}/voice?sample_rate=${this.context.sampleRate}`;
    const address = new URL(path, location.href);
    while (!(await this.open(address))) {
      // A browser does not say why a WebSocket was refused; a request to the same address is told.
      const response = await fetch(address, { headers: authorization() }).catch(() => null);
      if (!response) throw new Error("The server cannot be reached. Try again later.");
      const { detail } = await response.json().catch(() => ({}));
      if (response.status !== 401) throw new Error(detail ?? `The server answered with status ${response.status}.`);
      show("Waiting for a token");
      await signIn();
      show("Connecting");
    }
  }

  // Returns whether the server has accepted the connection.
  open(address) {
    const url = new URL(address);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url, subprotocols());
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (message) => this.receive(message.data);
    return new Promise((resolve) => {
      this.socket.onopen = () => resolve((this.isConnected = true));
      this.socket.onclose = () => {
        resolve(false);
        if (call === this && this.isConnected) hangUp("Not connected");
      };
    });
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(pcm) {
    if (this.isOpen && this.socket.bufferedAmount < MAX_BUFFERED_BYTES) this.socket.send(pcm);
  }

  receive(message) {
    if (message instanceof ArrayBuffer) {
      this.player.play(message, this.answerRate);
      this.showState();
      return;
    }
    const { type, content, ...rest } = JSON.parse(message);
    if (type === "output.audio.chunk") this.answerRate = content.sample_rate;
    else if (type === "error") fail(rest.message);
    else addLine(type, content);
    if (type === "stream.speech.started" || type === "output.speech.interrupted") this.player.empty();
    if (type === "stream.speech.started") this.isUserSpeaking = true;
    if (type === "stream.speech.stopped") this.isUserSpeaking = false;
    this.showState();
  }

  showState() {
    if (!this.isOpen) return;
    if (this.isUserSpeaking) show("You are speaking");
    else if (this.player.sources.size) show("Answering");
    else show(this.isMuted ? "Microphone off" : "Listening");
  }

  mute() {
    this.isMuted = true;
    for (const track of this.microphone?.getTracks() ?? []) track.stop();
    this.source?.disconnect();
  }

  end() {
    this.mute();
    this.player?.empty();
    this.socket?.close();
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}

function addLine(type, content) {
  if (type === "stream.transcription.updated") setLine(content.utterance_id, "You", content.text, "interim");
  else if (type === "stream.utterance.completed") setLine(content.utterance_id, "You", content.text);
  else if (type === "output.message.sent") setLine(null, "Petiole", content.text);
  else if (type === "output.message.failed") setLine(null, "", "An answer could not be sent.", "note");
  else if (type === "output.speech.interrupted") setLine(null, "", `(stopped; heard: ${content.heard_text || "nothing"})`, "note");
  else if (type === "stream.gap.detected") setLine(null, "", "(a part of your speech did not arrive)", "note");
}

function setLine(id, who, text, kind = "") {
  const lines = [...element("conversation").children];
  const line = lines.find((other) => id && other.dataset.id === id) ?? document.createElement("li");
  if (!text) {
    line.remove();
    return;
  }
  const name = document.createElement("b");
  name.textContent = who;
  line.replaceChildren(...(who ? [name, ` ${text}`] : [text]));
  line.className = kind;
  if (id) line.dataset.id = id;
  if (!line.parentNode) element("conversation").append(line);
  line.scrollIntoView({ block: "nearest" });
}

function show(state) {
  element("state").textContent = state;
}

function fail(reason) {
  element("error").textContent = reason;
  element("error").hidden = false;
}

function streamId() {
  if (location.hash.length < 2) history.replaceState(null, "", `#voice-${crypto.randomUUID()}`);
  const id = decodeURIComponent(location.hash.slice(1));
  element("stream").textContent = id;
  return id;
}

function setRunning(isRunning) {
  element("start").disabled = isRunning;
  element("stop").disabled = !isRunning;
}

async function start() {
  hangUp("Connecting");
  setRunning(true);
  element("error").hidden = true;
  const begun = (call = new Call());
  try {
    await begun.begin();
    if (call === begun) begun.showState();
    else begun.end();
  } catch (error) {
    begun.end();
    if (call !== begun) return;
    fail(error.name === "NotAllowedError" ? "The browser may not use the microphone; allow it for this page." : error.message);
    hangUp("Not connected");
  }
}

function stop() {
  // The connection stays, for the answer to what was said last.
  if (!call?.isOpen) {
    hangUp("Not connected");
    return;
  }
  call.mute();
  setRunning(false);
  call.showState();
}

function hangUp(state) {
  call?.end();
  call = null;
  cancelSignIn();
  setRunning(false);
  show(state);
}

function startAnew() {
  hangUp("Not connected");
  element("conversation").replaceChildren();
  history.replaceState(null, "", location.pathname);
  streamId();
}

if (navigator.mediaDevices) {
  streamId();
} else {
  element("start").disabled = true;
  fail("Browsers give a microphone only to pages of this machine and to pages with https: open it as http://localhost:PORT/voice/.");
}
element("start").addEventListener("click", start);
element("stop").addEventListener("click", stop);
element("new").addEventListener("click", startAnew);
