// A chat is a tree of messages. An edited question and another answer are branches; `leaf` ends the branch that is
// shown. Pure.

export const newId = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].join("-");

export function newChat(model = "") {
  const now = Date.now();
  return { id: newId(), title: "", model, system: "", options: {}, think: "", tools: "", nodes: {}, leaf: null, created: now, updated: now };
}

/** Add a message below `parent`, and show its branch. */
export function add(chat, parent, message) {
  const node = { id: newId(), parent, at: Date.now(), content: "", ...message };
  chat.nodes[node.id] = node;
  chat.leaf = node.id;
  return node;
}

/** The messages of the branch that is shown, from the first one. */
export function branch(chat, end = chat.leaf) {
  const found = [];
  for (let node = chat.nodes[end]; node && found.length < 100000; node = chat.nodes[node.parent]) found.unshift(node);
  return found;
}

/** The messages that stand beside this one, itself included, in the order in which they were made. */
export function siblings(chat, node) {
  return Object.values(chat.nodes).filter((one) => one.parent === node.parent).sort((a, b) => a.at - b.at);
}

/** Show the branch that goes through this message, down to its newest end. */
export function show(chat, node) {
  let end = node;
  for (;;) {
    const next = Object.values(chat.nodes).filter((one) => one.parent === end.id).sort((a, b) => b.at - a.at)[0];
    if (!next) break;
    end = next;
  }
  chat.leaf = end.id;
}

export const titleOf = (chat) => chat.title || firstWords(chat) || "New chat";

function firstWords(chat) {
  const first = branch(chat).find((node) => node.role === "user");
  const words = first && (first.content || first.files?.[0]?.name || "").trim().replace(/\s+/g, " ");
  return words && (words.length > 60 ? `${words.slice(0, 59)}…` : words);
}

/** Does any text of the chat contain the words? */
export function matches(chat, words) {
  const wanted = words.trim().toLowerCase();
  if (!wanted) return true;
  return [chat.title, ...Object.values(chat.nodes).map((node) => node.content)].some((text) => text?.toLowerCase().includes(wanted));
}

/** The messages as the API takes them. Files are text of the question that they came with. */
export function messagesFor(chat, end) {
  const system = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  const turns = branch(chat, end).map((node) => {
    const files = (node.files || []).map((file) => `File ${file.name}:\n${fenced(file.text)}`);
    const message = { role: node.role, content: [...files, node.content].filter(Boolean).join("\n\n") };
    if (node.images?.length) message.images = node.images.map((image) => image.data);
    if (node.calls?.length) {
      message.tool_calls = node.calls;
      if (node.thinking) message.thinking = node.thinking; // the thought goes on after the tool's result
    }
    if (node.tool) message.tool_name = node.tool;
    return message;
  });
  return [...system, ...turns];
}

/** The text in a fence that is longer than any in it. */
function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`{3,}/g) || []).map((fence) => fence.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
