// All chats, and the answers that are being written: kept outside of the views, so that an answer goes on while another
// view is open.

import { useEffect, useState } from "preact/hooks";
import { json, records } from "../api.js";
import * as storage from "./storage.js";
import { add, messagesFor, newChat, newId } from "./tree.js";

const SAVE_EVERY = 1500; // milliseconds, while an answer is written
const DRAW_EVERY = 60;
const ASK_EVERY = 2000; // how much of the prompt is read, until the first word

export const chats = new Map();
const running = new Map(); // id of a chat -> AbortController
const listeners = new Set();
let loading = null;
let drawn = null;
export const state = { loaded: false, error: null };

function changed() {
  drawn ??= setTimeout(() => {
    drawn = null;
    for (const listener of listeners) listener();
  }, DRAW_EVERY);
}

/** Draw the component again when a chat changes. */
export function useChats() {
  const [, draw] = useState(0);
  useEffect(() => {
    const listener = () => draw((value) => value + 1);
    listeners.add(listener);
    load();
    return () => listeners.delete(listener);
  }, []);
  return [...chats.values()].sort((a, b) => b.updated - a.updated);
}

function load() {
  loading ??= storage.readAll().then(
    (found) => {
      for (const chat of found) {
        for (const node of Object.values(chat.nodes)) if (node.role === "assistant" && !node.figures && !node.error) node.stopped = true;
        chats.set(chat.id, chat);
      }
      state.loaded = true;
      changed();
    },
    (error) => {
      state.loaded = true;
      state.error = new Error(`This browser keeps no chats: ${error.message}`);
      changed();
    },
  );
  return loading;
}

export async function save(chat, { touch = true } = {}) {
  if (touch) chat.updated = Date.now();
  chats.set(chat.id, chat);
  changed();
  try {
    await storage.write(chat);
  } catch (error) {
    state.error = new Error(`The chat was not saved: ${error.message}`);
    changed();
  }
}

export async function remove(chat) {
  stop(chat);
  chats.delete(chat.id);
  changed();
  await storage.remove(chat.id);
}

/** Take the chats of a file. A chat whose id is taken by another content gets an id of its own. */
export async function takeIn(found) {
  for (const chat of found) {
    const known = chats.get(chat.id);
    if (known && JSON.stringify(known.nodes) !== JSON.stringify(chat.nodes)) chat.id = newChat().id;
    await save(chat, { touch: false });
  }
}

export const isRunning = (chat) => running.has(chat.id);

export function stop(chat) {
  running.get(chat.id)?.abort();
}

/** Add a question to the branch that is shown, or beside `beside`, and ask for the answer. */
export async function ask(chat, message, beside = null) {
  const node = add(chat, beside ? beside.parent : chat.leaf, message);
  await answer(chat, node);
}

/** Ask for an answer to the branch that ends with `question`, and write it as it comes. */
export async function answer(chat, question) {
  stop(chat);
  const node = add(chat, question.id, { role: "assistant", model: chat.model });
  const aborter = new AbortController();
  running.set(chat.id, aborter);
  await save(chat);
  const sent = performance.now();
  const id = `page-${newId()}`;
  const asking = setInterval(() => tellReading(node, id), ASK_EVERY);
  let saved = sent;
  try {
    for await (const record of records("/api/chat", { body: request(chat, question), signal: aborter.signal, id })) {
      take(node, record, sent);
      if (record.done) await note(node, record, chat);
      changed();
      if (performance.now() - saved > SAVE_EVERY) {
        saved = performance.now();
        storage.write(chat).catch(() => undefined); // the last save tells a failure
      }
    }
    if (!node.figures) throw new Error("The answer broke off.");
  } catch (error) {
    if (aborter.signal.aborted) node.stopped = true;
    else Object.assign(node, { error: error.message, hint: error.hint, code: error.code });
  } finally {
    clearInterval(asking);
    delete node.reading;
    if (running.get(chat.id) === aborter) running.delete(chat.id);
    if (chats.has(chat.id)) await save(chat);
  }
}

/** Note how much of the prompt the server has read, where it tells; nothing once the answer has begun. */
async function tellReading(node, id) {
  if (node.first) return;
  const found = await json("/api/daemon/requests").catch(() => ({ requests: [] }));
  const prompt = found.requests.find((one) => one.id === id)?.prompt;
  if (!prompt?.total || node.first || node.figures || node.stopped || node.error) return;
  node.reading = prompt;
  changed();
}

function request(chat, question) {
  const body = { model: chat.model, messages: messagesFor(chat, question.id), options: chat.options };
  if (chat.think) body.think = { on: true, off: false }[chat.think] ?? chat.think;
  if (chat.tools.trim()) body.tools = JSON.parse(chat.tools);
  return body;
}

function take(node, record, sent) {
  const { content = "", thinking = "", tool_calls: calls = [] } = record.message || {};
  if ((content || thinking || calls.length) && !node.first) node.first = (performance.now() - sent) / 1000;
  node.content += content;
  if (thinking) node.thinking = (node.thinking || "") + thinking;
  if (calls.length) node.calls = [...(node.calls || []), ...calls];
}

/** Keep the figures of an answer: counts of tokens, times in seconds, the context of the runner that wrote it. */
async function note(node, record, chat) {
  node.figures = {
    prompt: record.prompt_eval_count || 0,
    cached: record.prompt_eval_cached_count || 0,
    generated: record.eval_count || 0,
    decode: (record.eval_duration || 0) / 1e9,
    load: (record.load_duration || 0) / 1e9,
    first: node.first || 0,
  };
  delete node.first;
  if (record.done_reason === "length") node.cut = true;
  try {
    const { models } = await json("/api/ps");
    const runner = models.find((one) => one.name === chat.model);
    if (runner?.context_length) node.figures.context = runner.context_length;
  } catch {
    // the gauge is left out
  }
}
