// What one chat says to its model besides the messages: system prompt, options, thinking, tools.

import { useState } from "preact/hooks";

const OPTIONS = [
  ["temperature", "Temperature", 0, 2, 0.1],
  ["top_p", "Top P", 0, 1, 0.05],
  ["top_k", "Top K", 0, undefined, 1],
  ["min_p", "Min P", 0, 1, 0.05],
  ["repeat_penalty", "Repeat penalty", 0, undefined, 0.05],
  ["num_ctx", "Context (tokens)", 4, undefined, 1],
  ["num_predict", "Longest answer (tokens)", -1, undefined, 1],
  ["seed", "Seed", 0, undefined, 1],
];
const THINKING = [["", "As the model does"], ["on", "On"], ["off", "Off"], ["low", "Low"], ["medium", "Medium"], ["high", "High"]];

export function ChatSettings({ chat, model, onChange, onClose }) {
  const [problem, setProblem] = useState("");
  const set = (name) => (event) => {
    chat[name] = event.target.value;
    onChange();
  };
  const setOption = (name) => (event) => {
    if (event.target.value === "" || !Number.isFinite(event.target.valueAsNumber)) delete chat.options[name];
    else chat.options[name] = event.target.valueAsNumber;
    onChange();
  };
  const setTools = (event) => {
    const wrong = problemOf(event.target.value);
    setProblem(wrong);
    if (!wrong) set("tools")(event);
  };
  const has = (capability) => model?.capabilities?.includes(capability);
  return (
    <section class="chat-settings" aria-label="Settings of this chat">
      <div class="fields">
        <label class="wide">Title<input value={chat.title} onChange={set("title")} placeholder="The first words of the chat" /></label>
        <label class="wide">System prompt<textarea rows={3} value={chat.system} onChange={set("system")} placeholder="The model's own" /></label>
        {OPTIONS.map(([name, label, min, max, step]) => (
          <label key={name}>{label}<input type="number" min={min} max={max} step={step} value={chat.options[name] ?? ""} placeholder="default" onChange={setOption(name)} /></label>
        ))}
        {has("thinking") && (
          <label>Thinking<select value={chat.think} onChange={set("think")}>{THINKING.map(([value, label]) => <option key={value} value={value}>{label}</option>)}</select></label>
        )}
        {has("tools") && (
          <label class="wide">Tools (a JSON list; you give the results)<textarea rows={3} class="mono" defaultValue={chat.tools} onChange={setTools} spellcheck={false}
            placeholder='[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]' /></label>
        )}
        {problem && <p class="failure wide" role="alert">{problem}</p>}
      </div>
      <div class="row end"><button type="button" class="small" onClick={onClose}>Done</button></div>
    </section>
  );
}

function problemOf(text) {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "Tools are a JSON list.";
  } catch (error) {
    return `Tools are not valid JSON: ${error.message}`;
  }
}
