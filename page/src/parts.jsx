// Small parts that the views share.

import { useEffect, useRef, useState } from "preact/hooks";

export function CopyButton({ text, label = "Copy" }) {
  const [said, say] = useState("");
  const copy = async () => {
    say((await copied(text)) ? "Copied" : "Not copied");
    setTimeout(() => say(""), 1500);
  };
  return <button type="button" class="small" onClick={copy}>{said || label}</button>;
}

/** Copy a text. Over plain HTTP from another machine browsers offer only the older way. */
export async function copied(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // refused by the browser; the older way may be permitted
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** Hand a file to the person, as the browser's downloads do. */
export function download(name, blob) {
  const address = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  URL.revokeObjectURL(address);
}

/** A dialog over the page. Escape and the close button call `onClose`. */
export function Dialog({ title, onClose, children }) {
  const element = useRef();
  useEffect(() => {
    element.current.showModal();
  }, []);
  return (
    <dialog ref={element} aria-labelledby="dialog-title" onCancel={(event) => { event.preventDefault(); onClose(); }}>
      <header><h2 id="dialog-title">{title}</h2><button type="button" class="icon" aria-label="Close" onClick={onClose}>✕</button></header>
      {children}
    </dialog>
  );
}

export function Failure({ error, again }) {
  if (!error) return null;
  return (
    <div class="failure" role="alert">
      <p>{error.message}</p>
      {error.hint && <p class="hint">{error.hint}</p>}
      {error.code && <p class="hint"><a href={`#/doctor/${error.code}`}>What {error.code} means</a></p>}
      {again && <button type="button" class="small" onClick={again}>Try again</button>}
    </div>
  );
}

/** Call a function now and every few seconds while the view is open and visible. Returns its latest value and error. */
export function usePolled(read, milliseconds) {
  const [state, set] = useState({ value: null, error: null });
  const [round, again] = useState(0);
  useEffect(() => {
    const aborter = new AbortController();
    let timer;
    const tick = async () => {
      if (!document.hidden) {
        try {
          const value = await read(aborter.signal);
          if (!aborter.signal.aborted) set({ value, error: null });
        } catch (error) {
          if (!aborter.signal.aborted) set((last) => ({ value: last.value, error }));
        }
      }
      if (!aborter.signal.aborted) timer = setTimeout(tick, milliseconds);
    };
    tick();
    return () => {
      aborter.abort();
      clearTimeout(timer);
    };
  }, [round]);
  return { ...state, refresh: () => again((value) => value + 1) };
}
