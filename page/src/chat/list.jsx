// The chats of this browser: search, new, export, import, delete.

import { useRef, useState } from "preact/hooks";
import { Dialog, download, Failure } from "../parts.jsx";
import { isRunning, remove, takeIn } from "./conversations.js";
import { exported, imported } from "./transfer.js";
import { matches, titleOf } from "./tree.js";

export function ChatList({ all, current, open, onNew }) {
  const [words, setWords] = useState("");
  const [doomed, setDoomed] = useState(null);
  const [error, setError] = useState(null);
  const picker = useRef();
  const found = all.filter((chat) => matches(chat, words));
  const take = async (event) => {
    const [file] = event.target.files;
    try {
      setError(null);
      await takeIn(imported(await file.text()));
    } catch (wrong) {
      setError(wrong);
    }
    picker.current.value = "";
  };
  return (
    <aside class={`chats ${open ? "open" : ""}`} aria-label="Chats">
      <button type="button" class="primary" onClick={onNew}>New chat</button>
      <input type="search" aria-label="Search the chats" placeholder="Search" value={words} onInput={(event) => setWords(event.target.value)} />
      <Failure error={error} />
      <ul>
        {found.map((chat) => (
          <li key={chat.id} class={chat.id === current ? "current" : ""}>
            <a href={`#/chat/${encodeURIComponent(chat.id)}`} aria-current={chat.id === current ? "true" : undefined}>{titleOf(chat)}{isRunning(chat) && " …"}</a>
            <button type="button" class="icon" aria-label={`Delete ${titleOf(chat)}`} onClick={() => setDoomed(chat)}>✕</button>
          </li>
        ))}
      </ul>
      {all.length > 0 && found.length === 0 && <p class="hint">No chat has these words.</p>}
      <div class="row">
        <button type="button" class="small" disabled={!all.length} onClick={() => download(`ollmlx-chats-${new Date().toISOString().slice(0, 10)}.json`, new Blob([exported(all)], { type: "application/json" }))}>Export</button>
        <button type="button" class="small" onClick={() => picker.current.click()}>Import</button>
        <input ref={picker} type="file" accept="application/json,.json" hidden aria-hidden="true" tabIndex={-1} data-import onChange={take} />
      </div>
      {doomed && (
        <Dialog title="Delete this chat?" onClose={() => setDoomed(null)}>
          <p>“{titleOf(doomed)}” is removed from this browser for good.</p>
          <div class="row end">
            <button type="button" onClick={() => setDoomed(null)}>Keep it</button>
            <button type="button" class="danger" onClick={() => { remove(doomed); setDoomed(null); if (doomed.id === current) onNew(); }}>Delete</button>
          </div>
        </Dialog>
      )}
    </aside>
  );
}
