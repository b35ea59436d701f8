// The doctor, run from the page: findings with the commands that mend them, the page of each code, and the bundle.

import { useState } from "preact/hooks";
import { json, send } from "../api.js";
import { CopyButton, Dialog, download, Failure } from "../parts.jsx";
import { Text } from "../rendered.jsx";

let kept = null; // the last report stays while other views are open
const NOUNS = { error: "error", warning: "warning", info: "note" };
const BADGES = { error: "bad", warning: "warn" };

/** `rest`: the code whose page is shown, from the address. */
export function DoctorView({ rest }) {
  const [report, setReport] = useState(kept);
  const [busy, setBusy] = useState("");
  const [error, setError] = useState(null);
  const show = (code) => { location.hash = `#/doctor/${code}`; };
  const act = async (what, work) => {
    setBusy(what);
    setError(null);
    try {
      await work();
    } catch (wrong) {
      setError(wrong);
    }
    setBusy("");
  };
  const examine = () => act("Examining this machine…", async () => {
    kept = await json("/api/daemon/doctor", { method: "POST" });
    setReport(kept);
  });
  const bundle = () => act("Writing the bundle…", async () => {
    const found = await send("/api/daemon/doctor/bundle", { method: "POST" });
    download(`ollmlx-${new Date().toISOString().slice(0, 10)}.zip`, await found.blob());
  });
  return (
    <div class="page">
      <h1>Doctor</h1>
      <p>It examines the machine that serves this page: settings, packages, models, processes, network. It changes nothing.</p>
      <div class="row">
        <button type="button" class="primary" disabled={busy !== ""} onClick={examine}>{report ? "Run it again" : "Run the doctor"}</button>
        <button type="button" disabled={busy !== ""} onClick={bundle}>Download a bundle</button>
        <span role="status" class="hint">{busy}</span>
      </div>
      <p class="hint">The bundle is a zip file for a person who helps you: the report, versions, settings and logs, without secrets and prompts.</p>
      <Failure error={error} />
      {report && <Report report={report} onPage={show} />}
      {rest && <CodePage key={rest} code={rest} onClose={() => show("")} />}
    </div>
  );
}

function Report({ report, onPage }) {
  const causes = report.findings.filter((one) => !one.follows_from);
  const sum = Object.entries(NOUNS).map(([severity, noun]) => [causes.filter((one) => one.severity === severity).length, noun])
    .filter(([number]) => number).map(([number, noun]) => `${number} ${noun}${number === 1 ? "" : "s"}`).join(", ");
  return (
    <>
      <h2>{sum || "No problems found"}</h2>
      <ul class="findings">
        {causes.map((one) => <FoundFault key={`${one.code} ${one.title}`} finding={one} followers={report.findings.filter((other) => other.follows_from === one.code)} onPage={onPage} />)}
      </ul>
      {report.notes.length > 0 && (
        <section aria-labelledby="works">
          <h2 id="works">What else it saw</h2>
          <ul class="notes">{report.notes.map((note) => <li key={note.text}><span aria-hidden="true">{note.severity === "ok" ? "✓" : "–"}</span> {note.text}{note.severity === "skipped" && " (not examined)"}</li>)}</ul>
        </section>
      )}
      <p class="hint">{report.checks.length} checks in {report.seconds.toFixed(1)} s, with ollmlx {report.version}.</p>
    </>
  );
}

function FoundFault({ finding, followers, onPage }) {
  return (
    <li class="card">
      <div class="row">
        <span class={`badge ${BADGES[finding.severity] || ""}`}>{finding.severity}</span>
        <h3>{finding.title}</h3>
        <button type="button" class="small" aria-label={`The page of ${finding.code}`} onClick={() => onPage(finding.code)}>{finding.code}</button>
      </div>
      {finding.evidence.map((line) => <p class="facts" key={line}>{line}</p>)}
      <Commands lines={finding.commands} />
      {finding.instead.length > 0 && <p class="facts">or:</p>}
      <Commands lines={finding.instead} />
      {followers.length > 0 && (
        <details>
          <summary>{followers.length} more {followers.length === 1 ? "follows" : "follow"} from this</summary>
          <ul>{followers.map((one) => <li class="facts" key={one.title}><button type="button" class="small" onClick={() => onPage(one.code)}>{one.code}</button> {one.title}</li>)}</ul>
        </details>
      )}
    </li>
  );
}

function Commands({ lines }) {
  if (!lines.length) return null;
  const text = lines.join("\n");
  return <div class="commands"><pre tabIndex={0} aria-label="Commands">{text}</pre><CopyButton text={text} /></div>;
}

function CodePage({ code, onClose }) {
  const [state, set] = useState(null);
  if (state === null) {
    set({});
    send(`/api/daemon/doctor/${encodeURIComponent(code)}`).then((found) => found.text()).then((text) => set({ text }), (error) => set({ error }));
  }
  return (
    <Dialog title={code} onClose={onClose}>
      <Failure error={state?.error} />
      {!state?.text && !state?.error && <p>Reading…</p>}
      {state?.text && <Text text={state.text.replace(`# ${code}: `, "# ")} />}
    </Dialog>
  );
}
