// What a person says, as text: recorded here, made a WAV file of 16 kHz, and written down by a model of this server.
// Loaded with the first use.

import { send } from "../api.js";

const RATE = 16000;
const PIECE = 250; // milliseconds

/** Begin to record. Returns a function that ends the recording and resolves to what was said. */
export async function record(model) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  const first = new Promise((resolve) => {
    recorder.ondataavailable = ({ data }) => {
      pieces.push(data);
      if (data.size) resolve();
    };
  });
  recorder.start(PIECE);
  await first;
  return async () => {
    const ended = new Promise((resolve) => { recorder.onstop = resolve; });
    recorder.stop();
    await ended;
    for (const track of stream.getTracks()) track.stop();
    return transcribed(await wav(new Blob(pieces)), model);
  };
}

async function transcribed(file, model) {
  const form = new FormData();
  form.append("file", file, "speech.wav");
  form.append("model", model);
  return (await (await send("/v1/audio/transcriptions", { body: form })).json()).text.trim();
}

/** One channel of 16-bit samples at 16 kHz, which every engine reads. */
async function wav(recorded) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const sound = await context.decodeAudioData(await recorded.arrayBuffer()).catch(() => { throw new Error("The recording is too short."); });
  const mixed = new OfflineAudioContext(1, Math.max(1, Math.ceil(sound.duration * RATE)), RATE);
  const source = new AudioBufferSourceNode(mixed, { buffer: sound });
  source.connect(mixed.destination);
  source.start();
  const samples = (await mixed.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const words = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  words(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  words(8, "WAVEfmt ");
  for (const [at, value] of [[16, 16], [24, RATE], [28, 2 * RATE], [40, 2 * samples.length]]) view.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) view.setUint16(at, value, true);
  words(36, "data");
  samples.forEach((sample, index) => view.setInt16(44 + 2 * index, 32767 * Math.max(-1, Math.min(1, sample)), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}
