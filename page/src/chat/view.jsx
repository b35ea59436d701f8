// The chat view: the list of chats, the branch that is shown, and the box for the next question.

import { useEffect, useRef, useState } from "preact/hooks";
import { json } from "../api.js";
import { Failure } from "../parts.jsx";
import { count, shortName } from "../text.js";
import { Composer } from "./composer.jsx";
import { answer, ask, chats, isRunning, save, state, stop, useChats } from "./conversations.js";
import { ChatList } from "./list.jsx";
import { Message } from "./message.jsx";
import { ChatSettings } from "./settings.jsx";
import { add, branch, newChat, siblings, show, titleOf } from "./tree.js";

const RETRY = 3000; // milliseconds

export function ChatView({ rest }) {
  const all = useChats();
  const models = useModels();
  const [fresh, setFresh] = useState(newChat);
  const [settings, setSettings] = useState(false);
  const [listed, setListed] = useState(false);
  const known = chats.get(rest);
  const chat = known || fresh;
  const choices = models.value?.filter((model) => model.capabilities?.includes("completion") ?? true) || [];
  if (!chat.model && choices.length) chat.model = preferred(choices);

  useEffect(() => setListed(false), [rest]);
  const start = () => {
    setFresh({ ...newChat(chat.model) });
    location.hash = "#/chat";
  };
  const open = () => {
    if (!known) {
      setFresh(newChat(chat.model));
      location.hash = `#/chat/${chat.id}`;
    }
  };
  const put = (message) => {
    localStorage.setItem("ollmlx-model", chat.model);
    ask(chat, message);
    open();
  };
  const model = choices.find((one) => one.name === chat.model);
  const listener = models.value?.find((one) => one.capabilities?.includes("transcription"))?.name;
  return (
    <>
      <ChatList all={all} current={known?.id} open={listed} onNew={start} />
      <section class="conversation" aria-label="Conversation">
        <header class="bar">
          <button type="button" class="small only-narrow" aria-expanded={listed} onClick={() => setListed(!listed)}>Chats</button>
          <h1>{titleOf(chat)}</h1>
          <Gauge chat={chat} />
          <ModelChoice chat={chat} choices={choices} missing={models.value ? "no model" : "…"} onChange={(name) => { chat.model = name; if (known) save(chat, { touch: false }); else setFresh({ ...chat }); }} />
          <button type="button" class="small" aria-expanded={settings} onClick={() => setSettings(!settings)}>Settings</button>
        </header>
        <Failure error={state.error} />
        <Failure error={models.error} again={models.refresh} />
        {settings && <ChatSettings chat={chat} model={model} onChange={() => (known ? save(chat, { touch: false }) : setFresh({ ...chat }))} onClose={() => setSettings(false)} />}
        <Messages chat={chat} empty={<Welcome models={models.value} />} />
        <Composer key={chat.id} model={model} listener={listener} ready={Boolean(chat.model)} missing={models.value ? "Install a model first" : ""} running={isRunning(chat)} onSend={put} onStop={() => stop(chat)} />
      </section>
    </>
  );
}

function useModels() {
  const [found, set] = useState({ value: null, error: null });
  const refresh = () => json("/api/tags").then(({ models }) => set({ value: models, error: null }), (error) => set({ value: null, error }));
  useEffect(() => {
    refresh();
  }, []);
  useEffect(() => {
    if (found.error?.status !== 0) return undefined;
    const timer = setTimeout(refresh, RETRY); // the server may come back
    return () => clearTimeout(timer);
  }, [found]);
  return { ...found, refresh };
}

function preferred(choices) {
  const last = localStorage.getItem("ollmlx-model");
  return (choices.find((model) => model.name === last) || choices[0]).name;
}

function ModelChoice({ chat, choices, missing, onChange }) {
  const names = choices.map((model) => model.name);
  if (chat.model && !names.includes(chat.model)) names.unshift(chat.model);
  return (
    <select aria-label="Model" value={chat.model} onChange={(event) => onChange(event.target.value)} disabled={!names.length}>
      {names.length ? names.map((name) => <option key={name} value={name}>{shortName(name)}</option>) : <option value="">{missing}</option>}
    </select>
  );
}

function Gauge({ chat }) {
  const last = branch(chat).filter((node) => node.figures?.context).at(-1)?.figures;
  if (!last) return null;
  const used = last.prompt + last.generated;
  const said = `${count(used)} of ${count(last.context)} tokens of the context are used`;
  return (
    <span class="gauge" title={said}>
      <meter min="0" max={last.context} high={last.context * 0.85} value={used} aria-label={said} />
      <span aria-hidden="true">{Math.round((100 * used) / last.context)} %</span>
    </span>
  );
}

function Welcome({ models }) {
  if (models?.length === 0) {
    return <div class="welcome"><h2>No model is installed yet</h2><p><a href="#/models">Pull one</a> to begin; <code>smollm2:135m</code> is small and quick.</p></div>;
  }
  return <div class="welcome"><h2>What would you like to know?</h2><p>Chats stay in this browser. The model runs on the machine that serves this page.</p></div>;
}

function Messages({ chat, empty }) {
  const end = useRef();
  const near = useRef(true);
  const nodes = branch(chat);
  const busy = isRunning(chat);
  useEffect(() => {
    near.current = true;
  }, [chat.id]);
  useEffect(() => {
    if (near.current) end.current.scrollTop = end.current.scrollHeight;
  });
  const watch = ({ currentTarget: box }) => {
    near.current = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  };
  const again = (node) => answer(chat, chat.nodes[node.parent]);
  const edit = (node, content) => ask(chat, { role: node.role, content, files: node.files, images: node.images, tool: node.tool }, node);
  const tell = (node, call, content) => {
    const told = add(chat, node.id, { role: "tool", tool: call.function.name, content });
    answer(chat, told);
  };
  const turn = (node) => { show(chat, node); save(chat, { touch: false }); };
  return (
    <div class="messages" ref={end} onScroll={watch} tabIndex={0} role="region" aria-label="Messages">
      {nodes.length === 0 && empty}
      <div class="column">
        {nodes.map((node, index) => {
          const writing = busy && index === nodes.length - 1;
          return <Message key={node.id} node={node} writing={writing} busy={busy} beside={siblings(chat, node)} last={index === nodes.length - 1}
            onAgain={again} onEdit={edit} onTurn={turn} onResult={tell} />;
        })}
      </div>
      <p class="unseen" role="status">{busy ? "The model is answering." : ended(nodes.at(-1))}</p>
    </div>
  );
}

/** Return what a screen reader says of an answer that is no longer written. An error has an alert of its own. */
function ended(node) {
  if (node?.stopped) return "The answer was stopped.";
  return node?.figures ? "The answer is complete." : "";
}
