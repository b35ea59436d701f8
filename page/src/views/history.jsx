// The last hour as four charts, from the daemon's own samples.

import { useEffect, useRef, useState } from "preact/hooks";
import { json } from "../api.js";
import { Failure, usePolled } from "../parts.jsx";
import { bytes, count, seconds } from "../text.js";

const CHARTS = [
  ["tokens_per_second", "Tokens per second", (value) => count(Math.round(value * 10) / 10), 1],
  ["first_token_ms", "Until the first token", (value) => (value ? seconds(value / 1000) : "0"), 10],
  ["queue", "Waiting requests", (value) => (Number.isInteger(value) ? count(value) : ""), 4],
  ["memory", "Memory of the models", (value) => (value ? bytes(value) : "0"), 1e9],
];

const read = (signal) => json("/api/daemon/history", { signal });

export function History() {
  const { value, error, refresh } = usePolled(read, 10000);
  return (
    <section aria-labelledby="history">
      <h2 id="history">The last hour</h2>
      <Failure error={error} again={refresh} />
      {value?.time.length === 0 && <p class="hint">There is nothing yet: a sample is taken every {value.every} seconds.</p>}
      {value?.time.length > 0 && (
        <ul class="charts">
          {CHARTS.map(([name, title, say, top]) => <Chart key={name} title={title} times={value.time} values={value[name]} top={top} say={say} />)}
        </ul>
      )}
    </section>
  );
}

function Chart({ title, times, values, top, say }) {
  const element = useRef();
  const [failed, setFailed] = useState(false);
  const known = values.filter((value) => value !== null);
  const told = known.length ? `now ${say(known.at(-1)) || "0"}, at most ${say(Math.max(...known)) || "0"}` : "none";
  useEffect(() => {
    let chart = null;
    let gone = false;
    const make = () => import("./charts.js").then(({ draw }) => {
      chart?.destroy();
      if (!gone && element.current) chart = draw(element.current, { times, values, top, say });
    }, () => setFailed(true));
    make();
    const watched = [[window, "resize"], [matchMedia("(prefers-color-scheme: dark)"), "change"]];
    for (const [source, event] of watched) source.addEventListener(event, make);
    return () => {
      gone = true;
      chart?.destroy();
      for (const [source, event] of watched) source.removeEventListener(event, make);
    };
  }, [times, values]);
  return (
    <li class="card">
      <h3>{title}</h3>
      <p class="facts">{told}</p>
      {failed ? <p class="hint">The chart could not be loaded.</p> : <div class="chart" ref={element} role="img" aria-label={`${title} in the last hour: ${told}`} />}
    </li>
  );
}
