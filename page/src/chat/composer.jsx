// The box for a question, with files as text, pictures for models that see, and speech where a model writes it down.

import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "../icons.jsx";
import { Failure } from "../parts.jsx";

const PICTURES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const LARGEST_TEXT = 1_000_000;
const LARGEST_PICTURE = 20_000_000;

export function Composer({ model, listener, ready, missing, running, onSend, onStop }) {
  const [attached, setAttached] = useState([]);
  const [error, setError] = useState(null);
  const box = useRef();
  const picker = useRef();
  const sees = model?.capabilities?.includes("vision") || false;
  useEffect(() => box.current.focus(), []);

  const attach = async (files) => {
    setError(null);
    const read = await Promise.allSettled([...files].map((file) => readFile(file, sees)));
    setAttached((before) => [...before, ...read.filter((one) => one.status === "fulfilled").map((one) => one.value)]);
    const failed = read.find((one) => one.status === "rejected");
    if (failed) setError(failed.reason);
  };
  const submit = () => {
    const content = box.current.value.trim();
    if (running || !ready || (!content && !attached.length)) return;
    const files = attached.filter((one) => one.text !== undefined);
    const images = attached.filter((one) => one.data);
    onSend({ role: "user", content, ...(files.length && { files }), ...(images.length && { images }) });
    box.current.value = "";
    grow(box.current);
    setAttached([]);
    setError(null);
  };
  const insert = (text) => {
    setError(null);
    box.current.setRangeText(`${box.current.selectionStart ? " " : ""}${text}`, box.current.selectionStart, box.current.selectionEnd, "end");
    grow(box.current);
    box.current.focus();
  };
  const keys = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    if (event.key === "Escape" && running) onStop();
  };
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); submit(); }}
      onDragOver={(event) => event.preventDefault()} onDrop={(event) => { event.preventDefault(); attach(event.dataTransfer.files); }}>
      <Failure error={error} />
      {attached.length > 0 && (
        <ul class="attached" aria-label="Attached">
          {attached.map((one, index) => (
            <li key={index}>{one.name} <button type="button" class="icon" aria-label={`Remove ${one.name}`} onClick={() => setAttached(attached.filter((_, at) => at !== index))}>✕</button></li>
          ))}
        </ul>
      )}
      <div class="row">
        <input ref={picker} type="file" multiple hidden aria-hidden="true" tabIndex={-1} data-attach onChange={(event) => { attach(event.target.files); event.target.value = ""; }} />
        <button type="button" class="icon" aria-label={sees ? "Attach files or pictures" : "Attach text files"} title="Attach" onClick={() => picker.current.click()}><Icon name="plus" /></button>
        {listener && navigator.mediaDevices && <Microphone listener={listener} onText={insert} onError={setError} />}
        <textarea ref={box} rows={1} aria-label="Your message" placeholder={ready ? "Ask something" : missing} onKeyDown={keys} onInput={(event) => grow(event.target)}
          onPaste={(event) => { if (event.clipboardData.files.length) { event.preventDefault(); attach(event.clipboardData.files); } }} />
        {running ? <button type="button" class="primary" onClick={onStop}>Stop</button> : <button type="submit" class="primary" disabled={!ready}>Send</button>}
      </div>
    </form>
  );
}

function Microphone({ listener, onText, onError }) {
  const [state, setState] = useState("idle"); // idle, recording, writing
  const ending = useRef(null);
  const toggle = async () => {
    try {
      if (state === "idle") {
        const { record } = await import("./microphone.js");
        ending.current = await record(listener);
        setState("recording");
        return;
      }
      setState("writing");
      onText(await ending.current());
    } catch (error) {
      onError(error.name === "NotAllowedError" ? new Error("The browser was not allowed to use the microphone.") : error);
    }
    setState("idle");
  };
  const label = { idle: "Speak", recording: "End the recording", writing: "Writing down what you said" }[state];
  return <button type="button" class={`icon ${state}`} aria-label={label} title={label} disabled={state === "writing"} onClick={toggle}><Icon name={state === "recording" ? "stop" : "transcription"} /></button>;
}

function grow(box) {
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight * 0.4)}px`;
}

async function readFile(file, sees) {
  if (PICTURES.includes(file.type)) {
    if (!sees) throw new Error(`${file.name}: this model does not see pictures.`);
    if (file.size > LARGEST_PICTURE) throw new Error(`${file.name} is larger than 20 MB.`);
    return { name: file.name, type: file.type, data: await base64(file) };
  }
  if (file.size > LARGEST_TEXT) throw new Error(`${file.name} is larger than 1 MB.`);
  const text = await file.text();
  if (text.includes("\0") || text.includes("\uFFFD")) throw new Error(`${file.name} is not a text file.`);
  return { name: file.name, text };
}

const base64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
