// The models: pull, describe, unload, delete.

import { useEffect, useRef, useState } from "preact/hooks";
import { json, records, send } from "../api.js";
import { Icon } from "../icons.jsx";
import { Dialog, Failure, usePolled } from "../parts.jsx";
import { ago, bytes, count, shortName } from "../text.js";
import { Defaults } from "./defaults.jsx";

const pulls = new Map(); // name -> { status, verdict, done, total, error, aborter }: they go on while another view is open

async function read(signal) {
  const [{ models }, { models: loaded }] = await Promise.all([json("/api/tags", { signal }), json("/api/ps", { signal })]);
  models.sort((a, b) => a.name.localeCompare(b.name));
  return { models, loaded: new Map(loaded.map((one) => [one.name, one])) };
}

export function ModelsView() {
  const { value, error, refresh } = usePolled(read, 8000);
  const [shown, setShown] = useState(null);
  const [doomed, setDoomed] = useState(null);
  const [failed, setFailed] = useState(null);
  const act = (work) => work().then(() => { setFailed(null); refresh(); }, setFailed);
  return (
    <div class="page">
      <h1>Models</h1>
      <PullForm installed={new Set((value?.models || []).map((model) => model.name))} onDone={refresh} />
      <Failure error={failed || error} again={error ? refresh : undefined} />
      {value?.models.length === 0 && <p>No model is installed.</p>}
      <ul class="cards">
        {(value?.models || []).map((model) => (
          <Model key={model.name} model={model} loaded={value.loaded.get(model.name)} onShow={() => setShown(model.name)} onDelete={() => setDoomed(model)}
            onUnload={() => act(() => send("/api/generate", { body: { model: model.name, keep_alive: 0 } }))} />
        ))}
      </ul>
      {shown && <Details name={shown} onClose={() => setShown(null)} />}
      {doomed && (
        <Dialog title="Delete this model?" onClose={() => setDoomed(null)}>
          <p><strong>{shortName(doomed.name)}</strong> ({bytes(doomed.size)}) is removed from the server's disk.</p>
          <div class="row end">
            <button type="button" onClick={() => setDoomed(null)}>Keep it</button>
            <button type="button" class="danger" onClick={() => { act(() => send("/api/delete", { method: "DELETE", body: { model: doomed.name } })); setDoomed(null); }}>Delete</button>
          </div>
        </Dialog>
      )}
    </div>
  );
}

function Model({ model, loaded, onShow, onDelete, onUnload }) {
  const { family, parameter_size: parameters, quantization_level: quantization, format } = model.details || {};
  const facts = [bytes(model.size), parameters, quantization, family, format, `changed ${ago(model.modified_at)}`].filter(Boolean);
  return (
    <li class="card">
      <div class="row">
        <h2>{shortName(model.name)}</h2>
        {loaded && <span class="badge good">{loaded.state === "busy" ? "answering" : "loaded"}</span>}
      </div>
      <p class="facts">{facts.join(" · ")}</p>
      <p class="badges">{(model.capabilities || []).map((name) => <span class="badge" key={name}><Icon name={name} size={14} /> {name}</span>)}</p>
      <div class="row">
        <button type="button" class="small" onClick={() => { localStorage.setItem("ollmlx-model", model.name); location.hash = "#/chat"; }} disabled={!model.capabilities?.includes("completion")}>Chat</button>
        <button type="button" class="small" onClick={onShow}>Details</button>
        {loaded && <button type="button" class="small" onClick={onUnload}>Unload</button>}
        <button type="button" class="small" aria-label={`Delete ${shortName(model.name)}`} onClick={onDelete}>Delete</button>
      </div>
    </li>
  );
}

function PullForm({ installed, onDone }) {
  const [, draw] = useState(0);
  const [known, setKnown] = useState([]);
  useEffect(() => {
    json("/api/daemon/catalogue").then(({ models }) => setKnown(models), () => undefined); // suggestions only
  }, []);
  const box = useRef();
  const again = () => draw((value) => value + 1);
  const start = async (name, sure = false) => {
    const pull = { status: "looking it up", verdict: pulls.get(name)?.verdict, steps: [], done: 0, total: 0, error: null, aborter: new AbortController() };
    pulls.set(name, pull);
    again();
    const layers = new Map();
    const { signal } = pull.aborter;
    try {
      if (!sure) {
        const { candidates } = await json("/api/pull", { body: { model: name, dry_run: true }, signal });
        pull.verdict = verdictOf(candidates);
        pull.waits = pull.verdict?.fits === false; // a person decides
        again();
        if (pull.waits) return;
      }
      for await (const step of records("/api/pull", { body: { model: name }, signal })) {
        pull.status = step.status;
        if (!step.total && !pull.steps.includes(step.status)) pull.steps.push(step.status);
        if (step.total) layers.set(step.digest || step.status, [step.completed || 0, step.total]);
        pull.done = sum(layers, 0);
        pull.total = sum(layers, 1);
        again();
      }
      pull.finished = true;
      onDone();
    } catch (error) {
      if (signal.aborted) pulls.delete(name);
      else pull.error = error;
    }
    again();
  };
  const submit = (event) => {
    event.preventDefault();
    const name = box.current.value.trim();
    if (!name) return;
    box.current.value = "";
    start(name);
  };
  return (
    <section aria-label="Pull a model">
      <form class="row" onSubmit={submit}>
        <input ref={box} class="grow" aria-label="Name of the model to pull" placeholder="Name, such as smollm2:135m or mlx-community/Qwen3-8B-4bit" list="known" autocomplete="off" spellcheck={false} />
        <datalist id="known">{known.filter((name) => name.includes(":") && !installed.has(name)).map((name) => <option key={name} value={name} />)}</datalist>
        <button type="submit" class="primary">Pull</button>
      </form>
      <ul class="pulls">
        {[...pulls].map(([name, pull]) => (
          <li key={name} class="card">
            <div class="row">
              <strong>{name}</strong>
              <span role="status">{pull.finished ? "installed" : pull.error ? "failed" : pull.waits ? "does not fit" : pull.status}</span>
              <button type="button" class="small" onClick={() => { pull.aborter.abort(); pulls.delete(name); again(); }}>{pull.finished || pull.error || pull.waits ? "Dismiss" : "Cancel"}</button>
            </div>
            {pull.verdict && <p class={pull.waits ? "failure" : "facts"}>{pull.verdict.said}</p>}
            {pull.waits && <div class="row"><button type="button" class="small" onClick={() => start(name, true)}>Pull it all the same</button></div>}
            {!pull.finished && !pull.error && !pull.waits && <progress aria-label={`Progress of ${name}`} max={pull.total || undefined} value={pull.total ? pull.done : undefined} />}
            {pull.total > 0 && !pull.finished && !pull.error && <p class="facts">{bytes(pull.done)} of {bytes(pull.total)}</p>}
            {pull.steps.length > 0 && <details><summary>Steps</summary><p class="facts">{pull.steps.join(", ")}</p></details>}
            <Failure error={pull.error} again={() => start(name)} />
          </li>
        ))}
      </ul>
    </section>
  );
}

/** The candidate that a pull would take, and whether it fits, in one line; nothing where no source tells. */
function verdictOf(candidates) {
  const found = candidates.find((one) => one.origin && !one.error) || candidates.find((one) => one.origin && one.hint);
  if (!found) return null;
  const fits = found.error ? false : found.fits;
  const facts = [
    found.error || { true: "It fits this machine", false: "It does not fit this machine", null: "Whether it fits is not known" }[fits],
    `${found.origin}: ${bytes(found.size)} to fetch`,
    found.memory && `${bytes(found.memory)} of memory`,
    found.context_length && `${count(found.context_length)} of ${count(found.model_context)} tokens of context`,
    found.backend && `runs on ${found.backend}`,
  ];
  return { fits, said: facts.filter(Boolean).join(" · ") };
}

function sum(layers, place) {
  return [...layers.values()].reduce((total, one) => total + one[place], 0);
}

function Details({ name, onClose }) {
  const [state, set] = useState(null);
  const load = () => json("/api/show", { body: { model: name } }).then((found) => set({ found }), (error) => set({ error }));
  if (state === null) {
    set({});
    load();
  }
  const found = state?.found;
  return (
    <Dialog title={shortName(name)} onClose={onClose}>
      <Failure error={state?.error} />
      {!found && !state?.error && <p>Reading…</p>}
      {found && (
        <div class="details">
          {found.problem && <Failure error={{ message: found.problem, hint: found.hint }} />}
          {found.backend && <p>Runs on <strong>{found.backend}</strong>: {found.why}</p>}
          <dl>{facts(found).map(([term, value]) => <><dt>{term}</dt><dd>{value}</dd></>)}</dl>
          {["system", "parameters", "template", "license"].filter((part) => found[part]).map((part) => (
            <details key={part}><summary>{TITLES[part]}</summary><pre tabIndex={0}>{found[part]}</pre></details>
          ))}
          <Defaults name={name} shown={found} onSaved={load} />
        </div>
      )}
    </Dialog>
  );
}

const TITLES = { system: "System prompt", parameters: "Parameters", template: "Template", license: "Licence" };

function facts({ details = {}, capabilities, model_info: info = {}, store, source }) {
  const context = details.context_length ?? Object.entries(info).find(([key]) => key.endsWith(".context_length"))?.[1];
  return [
    ["Capabilities", (capabilities || []).join(", ")],
    ["Context", context && `${count(context)} tokens`],
    ["Parameters", details.parameter_size],
    ["Quantisation", details.quantization_level],
    ["Family", details.family],
    ["Format", details.format],
    ["Store", store],
    ["Source", source],
  ].filter(([, value]) => value);
}
