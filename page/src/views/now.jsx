// What the server does now: runners, queue, speed. Read again every two seconds while the view is open.

import { useState } from "preact/hooks";
import { json, send } from "../api.js";
import { Failure, usePolled } from "../parts.jsx";
import { bytes, count, seconds, shortName } from "../text.js";

const KEPT = 90; // samples of two seconds

async function read(signal) {
  const [{ models }, daemon, figures] = await Promise.all([json("/api/ps", { signal }), describe(signal), metrics(signal)]);
  return { models, daemon, figures };
}

/** The daemon's own description; null where the server tells it to its own machine only. */
async function describe(signal) {
  try {
    return await json("/api/daemon", { signal });
  } catch (error) {
    if (error.status === 403 || error.status === 404) return null;
    throw error;
  }
}

async function metrics(signal) {
  const text = await (await send("/metrics", { signal })).text();
  const total = (name) => [...text.matchAll(new RegExp(`^ollmlx_${name}(?:\\{.*\\})? (\\S+)$`, "gm"))].reduce((all, [, value]) => all + Number(value), 0);
  return { queue: total("queue_depth"), generated: total("generated_tokens_total"), prompt: total("prompt_tokens_total"), cached: total("cached_tokens_total"), started: total("start_time_seconds"), at: performance.now() };
}

export function NowView() {
  const { value, error, refresh } = usePolled(read, 2000);
  const [failed, setFailed] = useState(null);
  const samples = samplesWith(value?.figures);
  if (!value) return <div class="page"><h1>Now</h1><Failure error={error} again={refresh} />{!error && <p>Reading…</p>}</div>;
  const { models, daemon, figures } = value;
  const broken = (daemon?.runners || []).filter((one) => one.state === "failed");
  const told = new Map((daemon?.runners || []).map((one) => [one.name, one]));
  const unload = (name) => send("/api/generate", { body: { model: name, keep_alive: 0 } }).then(refresh, setFailed);
  return (
    <div class="page">
      <h1>Now</h1>
      <Failure error={failed || error} again={refresh} />
      <dl class="numbers">
        <Figure label="In progress" value={count(models.reduce((all, one) => all + one.active, 0))} />
        <Figure label="Waiting" value={count(figures.queue)} />
        <Figure label="Tokens/s" value={samples.length ? samples.at(-1).toFixed(1) : "–"} chart={samples} />
        <Figure label="From the cache" value={figures.prompt ? `${Math.round((100 * figures.cached) / figures.prompt)} %` : "–"} />
        <Figure label="Up for" value={seconds(Date.now() / 1000 - figures.started)} />
      </dl>
      <h2>Loaded models</h2>
      {!models.length && !broken.length && <p>None. A model is loaded by the first request for it.</p>}
      <ul class="cards">
        {models.map((runner) => <Runner key={runner.runner} runner={runner} words={told.get(shortName(runner.name))?.last_words} onUnload={() => unload(runner.name)} />)}
        {broken.map((runner) => (
          <li key={runner.name} class="card">
            <div class="row"><h3>{runner.name}</h3><span class="badge bad">failed</span></div>
            <Failure error={{ message: runner.error || "The runner exited.", hint: runner.code && `ollmlx doctor --explain ${runner.code}` }} />
            <Words lines={runner.last_words} />
          </li>
        ))}
      </ul>
      {daemon && <Log />}
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

const kept = { last: null, values: [] }; // stays while other views are open

/** Tokens generated per second between the readings, the newest last. */
function samplesWith(figures) {
  const { last, values } = kept;
  if (figures && figures !== last) {
    if (last && figures.at > last.at) {
      values.push(Math.max(0, (figures.generated - last.generated) / ((figures.at - last.at) / 1000)));
      if (values.length > KEPT) values.shift();
    }
    kept.last = figures;
  }
  return values;
}

function Figure({ label, value, chart }) {
  return (
    <div class="figure">
      <dt>{label}</dt>
      <dd>{value}{chart?.length > 1 && <Line values={chart} />}</dd>
    </div>
  );
}

function Line({ values }) {
  const top = Math.max(...values, 1);
  const points = values.map((value, index) => `${(index / (KEPT - 1)) * 120},${28 - (value / top) * 26}`).join(" ");
  return <svg class="line" viewBox="0 0 120 30" role="img" aria-label={`The last ${values.length * 2} seconds, at most ${top.toFixed(0)}`}><polyline points={points} /></svg>;
}

function Runner({ runner, words, onUnload }) {
  const facts = [
    runner.backend,
    runner.device,
    `${count(runner.context_length)} tokens of context`,
    `${runner.active} of ${runner.parallel} requests`,
    runner.restarts ? `restarted ${runner.restarts} ${runner.restarts === 1 ? "time" : "times"}` : "",
    `process ${runner.pid ?? "–"}`,
  ].filter(Boolean);
  const held = runner.size;
  const budget = Math.max(runner.reserved || 0, held);
  return (
    <li class="card">
      <div class="row">
        <h3>{shortName(runner.name)}</h3>
        <span class={`badge ${runner.state === "ready" || runner.state === "busy" ? "good" : ""}`}>{runner.state}</span>
      </div>
      <p class="facts">{facts.join(" · ")}</p>
      <p class="facts"><meter min="0" max={budget} value={held} aria-label="Memory against what is reserved" /> {bytes(held)} held, {bytes(runner.reserved)} reserved</p>
      {runner.prompt_tokens > 0 && <p class="facts">{count(runner.cached_tokens)} of {count(runner.prompt_tokens)} tokens of prompts came from the cache</p>}
      {runner.missed && <p class="facts">The cache was missed: {runner.missed}</p>}
      {runner.notes?.length > 0 && <p class="facts">{runner.notes.join("; ")}</p>}
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
function Log() {
  const [open, setOpen] = useState(false);
  const [words, setWords] = useState("");
  return (
    <details onToggle={(event) => setOpen(event.target.open)}>
      <summary>Log</summary>
      <input type="search" class="log-words" aria-label="Only lines with these words" placeholder="Only lines with these words, such as a request id" value={words} onChange={(event) => setWords(event.target.value)} />
      {open && <LogLines key={words} words={words} />}
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
