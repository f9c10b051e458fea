// Runs in the browser's audio thread: turns what the microphone hears into chunks of 100 ms of 16-bit PCM.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(Math.floor(sampleRate / 10));
    this.count = 0;
  }

  process([channels]) {
    for (const value of channels[0] ?? []) {
      this.samples[this.count++] = Math.max(-1, Math.min(1, value)) * 32767;
      if (this.count === this.samples.length) {
        this.port.postMessage(this.samples.slice().buffer);
        this.count = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
