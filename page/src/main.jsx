// The frame of the page: views by the address after `#`, and the dialog that asks for a key.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { forgetKey, onKeyNeeded, storedKey } from "./api.js";
import { ChatView } from "./chat/view.jsx";
import { Dialog } from "./parts.jsx";
import "./style.css";
import { ConnectView } from "./views/connect.jsx";
import { DoctorView } from "./views/doctor.jsx";
import { ModelsView } from "./views/models.jsx";
import { NowView } from "./views/now.jsx";
import { SettingsView } from "./views/settings.jsx";

const VIEWS = {
  chat: ["Chat", ChatView],
  models: ["Models", ModelsView],
  now: ["Now", NowView],
  doctor: ["Doctor", DoctorView],
  settings: ["Settings", SettingsView],
  connect: ["Connect", ConnectView],
};

const place = () => {
  const [view, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { view: VIEWS[view] ? view : "chat", rest: decodeURIComponent(rest.join("/")) };
};

function Page() {
  const [at, go] = useState(place());
  const [question, setQuestion] = useState(null);
  useEffect(() => {
    const move = () => go(place());
    addEventListener("hashchange", move);
    onKeyNeeded((refused) => new Promise((resolve) => setQuestion({ refused, resolve })));
    return () => removeEventListener("hashchange", move);
  }, []);
  const [title, View] = VIEWS[at.view];
  useEffect(() => {
    document.title = `${title} · ollmlx`;
    document.querySelector("nav [aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [title]);
  const answer = (key) => {
    question.resolve(key);
    setQuestion(null);
  };
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the content</a>
      <header class="top">
        <a class="brand" href="#/chat"><img src="icon.svg" alt="" width="24" height="24" /> ollmlx</a>
        <nav aria-label="Views">
          {Object.entries(VIEWS).map(([name, [label]]) => (
            <a key={name} href={`#/${name}`} aria-current={at.view === name ? "page" : undefined}>{label}</a>
          ))}
        </nav>
        {storedKey() && <button type="button" class="small" onClick={() => { forgetKey(); location.reload(); }}>Forget key</button>}
      </header>
      <main id="main" tabIndex={-1} class={at.view}><View rest={at.rest} /></main>
      {question && <KeyDialog refused={question.refused} onAnswer={answer} />}
    </>
  );
}

function KeyDialog({ refused, onAnswer }) {
  const give = (event) => {
    event.preventDefault();
    const key = event.target.elements.key.value.trim();
    if (key) onAnswer(key);
  };
  return (
    <Dialog title="This server wants a key" onClose={() => onAnswer(null)}>
      <form onSubmit={give}>
        {refused && <p role="alert" class="failure">The server refused this key.</p>}
        <label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="off" required />
        <p class="hint">It is kept for this tab until you close it, and sent to this server only.</p>
        <div class="row end"><button type="submit" class="primary">Use this key</button></div>
      </form>
    </Dialog>
  );
}

render(<Page />, document.getElementById("page"));
