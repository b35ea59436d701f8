// The defaults of a model: system prompt and parameters. They are kept as Ollama keeps them, by creating the model anew.

import { useState } from "preact/hooks";
import { records } from "../api.js";
import { Failure } from "../parts.jsx";
import { shortName } from "../text.js";

export function Defaults({ name, shown, onSaved }) {
  const [state, set] = useState({ said: "" });
  const save = async (event) => {
    event.preventDefault();
    const { as, system, parameters } = event.target.elements;
    set({ said: "Saving…" });
    try {
      const body = { model: as.value.trim(), from: name, system: system.value, parameters: parametersOf(parameters.value) };
      for await (const step of records("/api/create", { body })) if (step.status !== "success") set({ said: step.status });
      set({ said: `Saved as ${shortName(body.model)}.` });
      onSaved();
    } catch (error) {
      set({ said: "", error });
    }
  };
  return (
    <details>
      <summary>Change the defaults</summary>
      <form class="defaults" onSubmit={save}>
        <label>System prompt<textarea name="system" rows={3} defaultValue={shown.system || ""} /></label>
        <label>Parameters, one a line, such as: temperature 0.2<textarea name="parameters" class="mono" rows={4} defaultValue={shown.parameters || ""} spellcheck={false} /></label>
        <label>Save as<input name="as" defaultValue={shortName(name)} required autocomplete="off" spellcheck={false} /></label>
        <p class="hint">What you leave out stays as it is.</p>
        <Failure error={state.error} />
        <div class="row end"><span class="hint" role="status">{state.said}</span><button type="submit" class="small primary">Save</button></div>
      </form>
    </details>
  );
}

/** The lines as the API takes them. A name that comes twice is a list, such as `stop`. */
function parametersOf(text) {
  const found = {};
  for (const line of text.split("\n").map((one) => one.trim()).filter(Boolean)) {
    const [, name, rest] = /^(\S+)\s+(.+)$/.exec(line) || [];
    if (!name) throw new Error(`A parameter needs a value: ${line}`);
    let value = rest;
    try {
      value = JSON.parse(rest);
    } catch {
      // a text without quotes
    }
    found[name] = name in found ? [found[name], value].flat() : value;
  }
  return found;
}
