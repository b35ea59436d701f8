// How other programs use this server: lines to copy, with this server's address.

import { useState } from "preact/hooks";
import { json, storedKey } from "../api.js";
import { CopyButton, Failure, usePolled } from "../parts.jsx";
import { shortName } from "../text.js";

const readModels = async (signal) => {
  const { models } = await json("/api/tags", { signal });
  return models.filter((model) => model.capabilities?.includes("completion") ?? true).sort((a, b) => a.name.localeCompare(b.name));
};

/** Each program with its lines. Names of models have no quotes and no spaces: the server takes no others. */
function recipes(url, model, key) {
  const secret = key || "ollmlx";
  const auth = key ? ` -H "Authorization: Bearer ${key}"` : "";
  return [
    ["ollmlx launch", "The shortest way, on the server's machine: it sets everything for one start.", `ollmlx launch codex --model ${model}\nollmlx launch claude --model ${model}\nollmlx launch opencode --model ${model}`],
    ["Claude Code", "", [`export ANTHROPIC_BASE_URL=${url} ANTHROPIC_AUTH_TOKEN=${secret}`, `export ANTHROPIC_MODEL=${model} ANTHROPIC_DEFAULT_HAIKU_MODEL=${model} ANTHROPIC_DEFAULT_SONNET_MODEL=${model}`, "export CLAUDE_CODE_ATTRIBUTION_HEADER=0", "claude"].join("\n")],
    ["Codex", key ? "In ~/.codex/config.toml. Codex reads the key from the variable OLLAMA_API_KEY." : "In ~/.codex/config.toml.", [`model = "${model}"`, 'model_provider = "ollmlx"', "", "[model_providers.ollmlx]", 'name = "ollmlx"', `base_url = "${url}/v1"`, 'wire_api = "responses"', ...(key ? ['env_key = "OLLAMA_API_KEY"'] : [])].join("\n")],
    ["opencode", "In ~/.config/opencode/opencode.json.", JSON.stringify({ model: `ollmlx/${model}`, provider: { ollmlx: { npm: "@ai-sdk/openai-compatible", options: { baseURL: `${url}/v1`, ...(key && { apiKey: key }) }, models: { [model]: { tool_call: true } } } } }, null, 2)],
    ["Open WebUI", "As a container; the address is that of the server as the container sees it.", `docker run -d -p 3000:8080 -e OLLAMA_BASE_URL=${url.replace(/\/\/(localhost|127\.0\.0\.1|\[::1\])/, "//host.docker.internal")} --add-host=host.docker.internal:host-gateway -v open-webui:/app/backend/data ghcr.io/open-webui/open-webui:main`],
    ["Continue", "In ~/.continue/config.yaml.", ["models:", `  - name: ${model}`, "    provider: ollama", `    model: ${model}`, `    apiBase: ${url}`, ...(key ? [`    apiKey: ${key}`] : []), "    roles: [chat, edit, autocomplete]"].join("\n")],
    ["Python, OpenAI's client", "", ["from openai import OpenAI", "", `client = OpenAI(base_url="${url}/v1", api_key="${secret}")`, `answer = client.chat.completions.create(model="${model}", messages=[{"role": "user", "content": "Hello"}])`, "print(answer.choices[0].message.content)"].join("\n")],
    ["LangChain", "", ["from langchain_ollama import ChatOllama", "", `print(ChatOllama(model="${model}", base_url="${url}"${key ? `, client_kwargs={"headers": {"Authorization": "Bearer ${key}"}}` : ""}).invoke("Hello").content)`].join("\n")],
    ["curl", "", `curl ${url}/api/chat${auth} -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}], "stream": false}'`],
  ];
}

export function ConnectView() {
  const { value: models, error, refresh } = usePolled(readModels, 30000);
  const [chosen, choose] = useState("");
  const [open, setOpen] = useState(false);
  const names = (models || []).map((model) => shortName(model.name));
  const model = chosen || names[0] || "MODEL";
  const toolless = models?.some((one) => shortName(one.name) === model && one.capabilities && !one.capabilities.includes("tools"));
  const key = storedKey();
  const shown = recipes(location.origin, model, key && (open ? key : "YOUR_KEY"));
  return (
    <div class="page">
      <h1>Connect</h1>
      <p>This server answers at <code>{location.origin}</code> in the dialects of Ollama, OpenAI (<code>/v1</code>) and Anthropic. <a href="/docs" target="_blank" rel="noopener">All routes</a></p>
      <Failure error={error} again={refresh} />
      <div class="row">
        <label class="inline">Model <select value={model} onChange={(event) => choose(event.target.value)}>{(names.length ? names : ["MODEL"]).map((name) => <option key={name}>{name}</option>)}</select></label>
        {key && <label class="inline"><input type="checkbox" checked={open} onChange={(event) => setOpen(event.target.checked)} /> Show my key in the lines</label>}
      </div>
      {toolless && <p class="hint">{model} has no tools: programs can chat with it, and coding agents need another model.</p>}
      {shown.map(([title, note, lines]) => (
        <section class="recipe" key={title} aria-label={title}>
          <div class="row"><h2>{title}</h2><CopyButton text={lines} label={`Copy`} /></div>
          {note && <p class="hint">{note}</p>}
          <pre tabIndex={0}>{lines}</pre>
        </section>
      ))}
    </div>
  );
}
