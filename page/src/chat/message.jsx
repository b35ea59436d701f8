// One message: its text, thinking, tool calls, files and pictures; what can be done with it; its figures.

import { useEffect, useRef, useState } from "preact/hooks";
import { CopyButton, Failure } from "../parts.jsx";
import { Text } from "../rendered.jsx";
import { count, seconds, shortName, speed } from "../text.js";

const WHO = { user: "You", tool: "Tool" };

export function Message({ node, writing, busy, beside, last, onAgain, onEdit, onTurn, onResult }) {
  const [editing, setEditing] = useState(false);
  const who = WHO[node.role] || shortName(node.model || "Assistant");
  return (
    <article class={`message ${node.role}`} aria-label={`${who}${writing ? ", writing" : ""}`}>
      <h2 class="who">{node.role === "tool" ? `Result of ${node.tool}` : who}</h2>
      <Attachments node={node} />
      {node.thinking && <Thinking node={node} writing={writing} />}
      {editing ? (
        <Editor node={node} onCancel={() => setEditing(false)} onDone={(text) => { setEditing(false); onEdit(node, text); }} />
      ) : node.role === "assistant" ? (
        <Text text={node.content} writing={writing} />
      ) : (
        <div class="plain">{node.content}</div>
      )}
      {writing && !node.content && !node.thinking && <p class="waiting">{node.reading ? `Reading the prompt: ${Math.floor((100 * node.reading.done) / node.reading.total)} % of ${count(node.reading.total)} tokens…` : "Waiting for the first word…"}</p>}
      {(node.calls || []).map((call, index) => <Call key={index} call={call} open={last && !writing} onResult={(text) => onResult(node, call, text)} />)}
      {node.error && <Failure error={{ message: node.error, hint: node.hint, code: node.code }} />}
      {!editing && !writing && (
        <footer>
          {node.role === "assistant" && <Figures node={node} />}
          <span class="tools">
            {beside.length > 1 && <Branches node={node} beside={beside} onTurn={onTurn} />}
            {node.content && <CopyButton text={node.content} />}
            {node.role === "assistant" && <button type="button" class="small" disabled={busy} onClick={() => onAgain(node)}>Regenerate</button>}
            {node.role === "user" && <button type="button" class="small" disabled={busy} onClick={() => setEditing(true)}>Edit</button>}
          </span>
        </footer>
      )}
    </article>
  );
}

function Thinking({ node, writing }) {
  return (
    <details class="thinking">
      <summary>{writing && !node.content ? "Thinking…" : "Thoughts"}</summary>
      <div class="plain">{node.thinking}</div>
    </details>
  );
}

function Call({ call, open, onResult }) {
  const send = (event) => {
    event.preventDefault();
    onResult(event.target.elements.result.value);
  };
  return (
    <div class="call">
      <p>Calls <code>{call.function.name}</code></p>
      <pre tabIndex={0}>{JSON.stringify(call.function.arguments, null, 2)}</pre>
      {open && (
        <form class="row" onSubmit={send}>
          <input name="result" aria-label={`Result of ${call.function.name}`} placeholder="What the tool returned" autocomplete="off" />
          <button type="submit" class="small">Send the result</button>
        </form>
      )}
    </div>
  );
}

function Attachments({ node }) {
  if (!node.files?.length && !node.images?.length) return null;
  return (
    <div class="attachments">
      {(node.images || []).map((image, index) => <img key={index} src={`data:${image.type};base64,${image.data}`} alt={image.name || "picture"} />)}
      {(node.files || []).map((file, index) => <details key={index}><summary>{file.name}</summary><pre tabIndex={0}>{file.text}</pre></details>)}
    </div>
  );
}

function Editor({ node, onCancel, onDone }) {
  const box = useRef();
  useEffect(() => box.current.focus(), []);
  const keys = (event) => {
    if (event.key === "Escape") onCancel();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      onDone(event.target.value);
    }
  };
  return (
    <div class="editor">
      <textarea ref={box} aria-label="Edit the message" defaultValue={node.content} rows={Math.min(12, node.content.split("\n").length + 1)} onKeyDown={keys} />
      <div class="row end">
        <button type="button" class="small" onClick={onCancel}>Cancel</button>
        <button type="button" class="small primary" onClick={() => onDone(box.current.value)}>Ask again</button>
      </div>
    </div>
  );
}

function Branches({ node, beside, onTurn }) {
  const at = beside.findIndex((one) => one.id === node.id);
  return (
    <span class="branches">
      <button type="button" class="small" aria-label="Earlier version" disabled={at === 0} onClick={() => onTurn(beside[at - 1])}>‹</button>
      <span>{at + 1} of {beside.length}</span>
      <button type="button" class="small" aria-label="Later version" disabled={at === beside.length - 1} onClick={() => onTurn(beside[at + 1])}>›</button>
    </span>
  );
}

/** The figures of an answer in one line. */
function Figures({ node }) {
  const found = node.figures;
  const said = [];
  if (node.stopped) said.push("stopped");
  if (node.cut) said.push("cut at the length limit");
  if (found) {
    said.push(`${count(found.generated)} tokens`);
    if (found.generated > 1 && found.decode > 0) said.push(`${speed(found.generated / found.decode)} tokens/s`);
    if (found.first) said.push(`first after ${seconds(found.first)}`);
    if (found.load > 0.5) said.push(`${seconds(found.load)} until it ran`);
    said.push(`prompt ${count(found.prompt)}${found.cached ? `, ${Math.round((100 * found.cached) / found.prompt)} % cached` : ""}`);
  }
  return <span class="figures">{said.join(" · ")}</span>;
}
