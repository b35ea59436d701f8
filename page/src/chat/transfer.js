// Chats as a JSON file, and back. A file may come from anywhere: only known fields of the right types are taken. Pure.

import { newChat, newId } from "./tree.js";

const FORMAT = "ollmlx-chats";
const ROLES = ["user", "assistant", "tool"];
const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : Date.now());
const list = (value) => (Array.isArray(value) ? value : []);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const BASE64 = /^[A-Za-z0-9+/=]+$/;
const PICTURE = /^image\/(png|jpeg|webp|gif)$/;

export function exported(chats) {
  return JSON.stringify({ format: FORMAT, version: 1, chats }, null, 1);
}

/** Read a file's chats. Throws an Error that says what is wrong with the file. */
export function imported(source) {
  let file;
  try {
    file = JSON.parse(source);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (!isObject(file) || file.format !== FORMAT || !Array.isArray(file.chats)) throw new Error("The file has no chats of ollmlx.");
  if (file.version !== 1) throw new Error(`The file has version ${file.version}; this page reads version 1.`);
  return file.chats.filter(isObject).map(readChat);
}

function readChat(raw) {
  const chat = newChat(text(raw.model));
  chat.id = text(raw.id) || newId();
  for (const name of ["title", "system", "think", "tools"]) chat[name] = text(raw[name]);
  for (const [name, value] of Object.entries(isObject(raw.options) ? raw.options : {})) if (Number.isFinite(value)) chat.options[name] = value;
  chat.created = number(raw.created);
  chat.updated = number(raw.updated);
  const nodes = Object.values(isObject(raw.nodes) ? raw.nodes : {}).filter((node) => isObject(node) && ROLES.includes(node.role) && text(node.id));
  chat.nodes = Object.fromEntries(nodes.map((node) => [node.id, readNode(node)]));
  for (const node of Object.values(chat.nodes)) if (!chat.nodes[node.parent]) node.parent = null;
  chat.leaf = chat.nodes[raw.leaf] ? raw.leaf : (nodes.at(-1)?.id ?? null);
  return chat;
}

function readNode(raw) {
  const node = { id: raw.id, parent: text(raw.parent) || null, role: raw.role, at: number(raw.at), content: text(raw.content) };
  for (const name of ["thinking", "error", "model", "tool"]) if (text(raw[name])) node[name] = raw[name];
  const files = list(raw.files).filter((file) => isObject(file) && text(file.name) && typeof file.text === "string");
  if (files.length) node.files = files.map(({ name, text: content }) => ({ name, text: content }));
  const images = list(raw.images).filter((image) => isObject(image) && PICTURE.test(image.type) && BASE64.test(image.data));
  if (images.length) node.images = images.map(({ name, type, data }) => ({ name: text(name), type, data }));
  const calls = list(raw.calls).filter((call) => isObject(call) && isObject(call.function) && text(call.function.name));
  if (calls.length) node.calls = calls.map((call) => ({ ...(text(call.id) && { id: call.id }), function: { name: call.function.name, arguments: isObject(call.function.arguments) ? call.function.arguments : {} } }));
  if (raw.stopped === true) node.stopped = true;
  if (isObject(raw.figures)) node.figures = Object.fromEntries(Object.entries(raw.figures).filter(([, value]) => Number.isFinite(value)));
  return node;
}
