// The settings that are in force, and where each comes from. Read only: a page of a browser changes no server.

import { useState } from "preact/hooks";
import { json } from "../api.js";
import { Failure, usePolled } from "../parts.jsx";

const read = (signal) => json("/api/daemon/settings", { signal });

export function SettingsView() {
  const { value, error, refresh } = usePolled(read, 30000);
  const [words, setWords] = useState("");
  const [changed, setChanged] = useState(false);
  const wanted = words.trim().toLowerCase();
  const shown = (value?.settings || []).filter((one) => (!changed || one.origin !== "default") && `${one.key} ${said(one.value)} ${one.source}`.toLowerCase().includes(wanted));
  const sections = grouped(shown);
  return (
    <div class="page">
      <h1>Settings</h1>
      <p>What is in force now, and where each value comes from. Secrets are hidden. {value?.files.length ? <>The file is <code>{value.files.join(", ")}</code>.</> : "There is no settings file."} <code>ollmlx config</code> checks and explains them on the server's machine.</p>
      <Failure error={error} again={refresh} />
      {value?.restart.length > 0 && <div class="failure" role="status"><p>These changes wait for a restart of the server:</p>{value.restart.map((one) => <p class="hint" key={one}>{one}</p>)}</div>}
      <div class="row">
        <input type="search" aria-label="Search the settings" placeholder="Search" value={words} onInput={(event) => setWords(event.target.value)} />
        <label class="inline"><input type="checkbox" checked={changed} onChange={(event) => setChanged(event.target.checked)} /> Only what is not the default</label>
      </div>
      {!value && !error && <p>Reading…</p>}
      {value && !shown.length && <p class="hint">No setting is like that.</p>}
      {[...sections].map(([section, settings]) => (
        <section key={section} aria-label={section}>
          <h2>{section}</h2>
          <div class="table-box even" tabIndex={0} role="region" aria-label={`Settings of ${section}`}>
            <table>
              <thead><tr><th>Key</th><th>Value</th><th>Comes from</th></tr></thead>
              <tbody>
                {settings.map((one) => (
                  <tr key={one.key} class={one.origin === "default" ? "" : "set"}>
                    <td><code>{one.key.slice(section.length + 1) || one.key}</code></td>
                    <td class="value"><code>{said(one.value)}</code></td>
                    <td>{one.source}{one.overrides.map((weaker) => <span class="hint" key={weaker.source}>; overrides {said(weaker.value)} of {weaker.source}</span>)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      ))}
    </div>
  );
}

const sectionOf = ({ key }) => key.split(".")[0];

function grouped(settings) {
  const found = new Map();
  for (const one of settings) found.set(sectionOf(one), [...(found.get(sectionOf(one)) || []), one]);
  return found;
}

function said(value) {
  if (value === "") return "(empty)";
  if (Array.isArray(value)) return value.length ? value.map(said).join(", ") : "(none)";
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "(not set)");
}
