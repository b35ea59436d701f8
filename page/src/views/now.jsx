// What the server does now: requests, runners, queue, speed. Read again every two seconds while the view is open.

import { useEffect, useRef, useState } from "preact/hooks";
import { json, send } from "../api.js";
import { Failure, usePolled } from "../parts.jsx";
import { bytes, count, seconds, shortName } from "../text.js";
import { History } from "./history.jsx";

async function read(signal) {
  const [{ models }, daemon, figures, told] = await Promise.all([json("/api/ps", { signal }), forOperators("/api/daemon", signal), metrics(signal), forOperators("/api/daemon/requests", signal)]);
  return { models, daemon, figures, requests: told?.requests || [] };
}

/** What the server tells to its own machine only, or with a key; null where it does not. */
async function forOperators(path, signal) {
  try {
    return await json(path, { signal });
  } catch (error) {
    if (error.status === 403 || error.status === 404) return null;
    throw error;
  }
}

async function metrics(signal) {
  const text = await (await send("/metrics", { signal })).text();
  const total = (name) => [...text.matchAll(new RegExp(`^ollmlx_${name}(?:\\{.*\\})? (\\S+)$`, "gm"))].reduce((all, [, value]) => all + Number(value), 0);
  return { queue: total("queue_depth"), prompt: total("prompt_tokens_total"), cached: total("cached_tokens_total"), started: total("start_time_seconds") };
}

export function NowView() {
  const { value, error, refresh } = usePolled(read, 2000);
  const [failed, setFailed] = useState(null);
  const [words, setWords] = useState(null); // of the log; null while it is closed
  if (!value) return <div class="page"><h1>Now</h1><Failure error={error} again={refresh} />{!error && <p>Reading…</p>}</div>;
  const { models, daemon, figures, requests } = value;
  const broken = (daemon?.runners || []).filter((one) => one.state === "failed");
  const told = new Map((daemon?.runners || []).map((one) => [one.name, one]));
  const unload = (name) => send("/api/generate", { body: { model: name, keep_alive: 0 } }).then(refresh, setFailed);
  const speed = requests.reduce((all, one) => all + one.tokens_per_second, 0);
  return (
    <div class="page">
      <h1>Now</h1>
      <Failure error={failed || error} again={refresh} />
      <dl class="numbers">
        <Figure label="In progress" value={count(models.reduce((all, one) => all + one.active, 0))} />
        <Figure label="Waiting" value={count(figures.queue)} />
        <Figure label="Tokens/s" value={speed ? speed.toFixed(1) : "–"} />
        {daemon && <Figure label={`Memory, of ${bytes(daemon.budget)}`} value={bytes(models.reduce((all, one) => all + one.size, 0))} />}
        <Figure label="From the cache" value={figures.prompt ? `${Math.round((100 * figures.cached) / figures.prompt)} %` : "–"} />
        <Figure label="Up for" value={seconds(Date.now() / 1000 - figures.started)} />
      </dl>
      {daemon && <Requests requests={requests} onLog={setWords} />}
      <h2>Loaded models</h2>
      {!models.length && !broken.length && <p>None. A model is loaded by the first request for it.</p>}
      <ul class="cards">
        {models.map((runner) => (
          <Runner key={runner.runner} runner={runner} words={told.get(shortName(runner.name))?.last_words} onUnload={() => unload(runner.name)}
            tokens={requests.filter((one) => shortName(one.model) === shortName(runner.name)).reduce((all, one) => all + (one.prompt?.done || 0) + one.tokens, 0)} />
        ))}
        {broken.map((runner) => (
          <li key={runner.name} class="card">
            <div class="row"><h3>{runner.name}</h3><span class="badge bad">failed</span></div>
            <Failure error={{ message: runner.error || "The runner exited.", code: runner.code }} />
            <Words lines={runner.last_words} />
          </li>
        ))}
      </ul>
      {daemon && <History />}
      {daemon && <Log words={words} onWords={setWords} />}
      <h2>Server</h2>
      {daemon ? (
        <dl class="plain-list">
          <dt>Version</dt><dd>ollmlx {daemon.version}, Python {daemon.python}, process {daemon.pid}</dd>
          <dt>Address</dt><dd>{location.origin}</dd>
          <dt>Models</dt><dd><code>{daemon.models_folder}</code></dd>
          <dt>API keys</dt><dd>{daemon.api_keys ? "needed" : "not set"}</dd>
        </dl>
      ) : (
        <p class="hint">The server tells more to its own machine, or to a client with an API key.</p>
      )}
    </div>
  );
}

function Figure({ label, value }) {
  return <div class="figure"><dt>{label}</dt><dd>{value}</dd></div>;
}

function Requests({ requests, onLog }) {
  return (
    <section aria-labelledby="requests">
      <h2 id="requests">Requests</h2>
      {!requests.length && <p class="hint">No request is being served.</p>}
      {requests.length > 0 && (
        <div class="table-box" tabIndex={0} role="region" aria-label="Requests in progress">
          <table>
            <thead><tr><th>Client</th><th>Model</th><th>State</th><th class="right">Tokens</th><th class="right">Tokens/s</th><th class="right">Time</th><th>Request</th></tr></thead>
            <tbody>
              {requests.map((one) => (
                <tr key={one.id}>
                  <td>{one.client}</td>
                  <td>{shortName(one.model)}</td>
                  <td>{stateOf(one)}{one.missed && <span class="hint"> (cache missed: {one.missed})</span>}</td>
                  <td class="right">{count(one.tokens)}</td>
                  <td class="right">{one.tokens_per_second || "–"}</td>
                  <td class="right">{seconds(one.seconds)}</td>
                  <td><button type="button" class="small" title="Its lines in the log" onClick={() => onLog(one.id)}><code>{one.id}</code></button></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function stateOf({ state, prompt }) {
  const cached = prompt?.cached ? `, ${Math.round((100 * prompt.cached) / prompt.total)} % cached` : "";
  if (state === "reading") return prompt?.total ? `reads the prompt: ${Math.floor((100 * prompt.done) / prompt.total)} % of ${count(prompt.total)}${cached}` : "reads the prompt";
  return state === "waiting" ? "waits for the model" : `answers${prompt ? ` (prompt ${count(prompt.total)}${cached})` : ""}`;
}

function Runner({ runner, words, tokens, onUnload }) {
  const facts = [
    runner.backend,
    runner.device,
    `${count(runner.context_length)} tokens of context`,
    `${runner.active} of ${runner.parallel} requests`,
    runner.clients?.length ? `for ${runner.clients.join(", ")}` : "",
    runner.restarts ? `restarted ${runner.restarts} ${runner.restarts === 1 ? "time" : "times"}` : "",
    `process ${runner.pid ?? "–"}`,
  ].filter(Boolean);
  const held = runner.size;
  const budget = Math.max(runner.reserved || 0, held);
  const pool = runner.pool_tokens || runner.context_length; // an engine that names no pool shares one context
  const used = runner.pool_tokens ? runner.pool_used : Math.min(tokens, pool);
  return (
    <li class="card">
      <div class="row">
        <h3>{shortName(runner.name)}</h3>
        <span class={`badge ${runner.state === "ready" || runner.state === "busy" ? "good" : ""}`}>{runner.state}</span>
      </div>
      <p class="facts">{facts.join(" · ")}</p>
      <p class="facts"><meter min="0" max={budget} value={held} aria-label="Memory against what is reserved" /> {bytes(held)} held, {bytes(runner.reserved)} reserved</p>
      {pool > 0 && <p class="facts"><meter min="0" max={pool} value={used} aria-label="Tokens of the KV pool in use" /> {count(used)} of {count(pool)} tokens of the KV pool</p>}
      {runner.prompt_tokens > 0 && <p class="facts">{count(runner.cached_tokens)} of {count(runner.prompt_tokens)} tokens of prompts came from the cache</p>}
      {runner.missed && <p class="facts">The cache was missed: {runner.missed}</p>}
      {runner.notes?.length > 0 && <p class="facts">{runner.notes.filter((note) => !note.includes("KV pool in use")).join("; ")}</p>}
      {runner.last_error && <Failure error={{ message: `Last failure: ${runner.last_error}` }} />}
      {runner.last_error && <Words lines={words} />}
      <div class="row"><button type="button" class="small" aria-label={`Unload ${shortName(runner.name)}`} onClick={onUnload}>Unload</button></div>
    </li>
  );
}

const readLog = (words) => async (signal) => {
  const text = await (await send(`/api/daemon/log?contains=${encodeURIComponent(words)}`, { signal })).text();
  return text.split("\n").filter(Boolean).map(lineOf).reverse().join("\n");
};

/** The end of the log while it is open; the words select lines, such as those of one request. */
function Log({ words, onWords }) {
  const box = useRef();
  useEffect(() => {
    if (words) box.current.scrollIntoView({ block: "nearest" });
  }, [words !== null]);
  return (
    <details ref={box} open={words !== null} onToggle={(event) => onWords(event.target.open ? (words ?? "") : null)}>
      <summary>Log</summary>
      <input type="search" class="log-words" aria-label="Only lines with these words" placeholder="Only lines with these words, such as a request id" value={words ?? ""} onChange={(event) => onWords(event.target.value)} />
      {words !== null && <LogLines key={words} words={words} />}
    </details>
  );
}

function LogLines({ words }) {
  const { value, error, refresh } = usePolled(readLog(words), 2000);
  if (error) return <Failure error={error} again={refresh} />;
  return <pre class="log" tabIndex={0} role="region" aria-label="The log, newest line first">{value ?? "Reading…"}{value === "" && "No lines."}</pre>;
}

function lineOf(line) {
  try {
    const { time, level, message, request } = JSON.parse(line);
    return `${new Date(time).toLocaleTimeString("en-GB")} ${String(level).toUpperCase().padEnd(7)} ${message}${request ? ` request=${request}` : ""}`;
  } catch {
    return line; // an unfinished line
  }
}

function Words({ lines }) {
  if (!lines?.length) return null;
  return <details><summary>Its last words</summary><pre tabIndex={0}>{lines.join("\n")}</pre></details>;
}
