"""A template of each shape that models bring, and a conversation for them as plain data."""

# ruff: noqa: E501 - templates have the lines that they have
from __future__ import annotations

from typing import Any

SHAPES = {
    "one round": "{{ if .System }}<|system|>\n{{ .System }}<|end|>\n{{ end }}<|user|>\n{{ .Prompt }}<|end|>\n<|bot|>\n",
    "instructions": "{{- if .System }}{{ .System }}\n{{- end }}\n### Instruction:\n{{ .Prompt }}\n\n### Response:\n{{ .Response }}\n",
    "chatml": """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ end }}
{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}""",
    "tools": """{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}

# Tools
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ json .Function }}}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}""",
    "last tools": """{{- $lastUser := -1 }}{{ range $i, $m := .Messages }}{{ if eq .Role "user" }}{{ $lastUser = $i }}{{ end }}{{ end }}
{{- range $i, $m := .Messages }}
{{- if eq .Role "user" }}
{{- if and (eq $i $lastUser) (gt (len $.Tools) 0) }}[AVAILABLE_TOOLS] {{ json $.Tools }}[/AVAILABLE_TOOLS]{{ end -}}
[INST] {{ if and (eq (len (slice $.Messages $i)) 1) $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}
{{- if not (eq (len (slice $.Messages $i)) 1) }}</s>{{ end }}
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range $n, $c := .ToolCalls }}{{ if $n }}, {{ end }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}{{ end }}]</s>
{{- end }}
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ json .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}""",
    "thinking": """{{- range $index, $m := .Messages }}<|{{ $m.Role }}|>
{{- if and $.IsThinkSet (and $m.Thinking (eq $m.Role "assistant")) }}<think>{{ $m.Thinking }}</think>{{ end -}}
{{ $m.Content }}{{ end }}<|assistant|>{{ if and $.IsThinkSet (not $.Think) }}<think>

</think>{{ end }}""",
    "insert": "{{ if .Suffix }}<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>{{ else }}{{ .Prompt }}{{ end }}",
    "named": """{{- define "turn" }}<{{ .Role }}>{{ .Content }}</{{ .Role }}>{{ end -}}
{{ range .Messages }}{{ template "turn" . }}{{ else }}{{ block "empty" . }}nothing{{ end }}{{ end }}""",
    "properties": """{{ range .Tools }}{{ .Function.Name }}({{ range $k, $v := .Function.Parameters.Properties -}}
{{ $k }}: {{ $v.Type }}, {{ end }}){{ with .Function.Description }} // {{ . }}{{ end }}{{ break }}{{ end }}""",
    "numbers": "{{ range 3 }}{{ . }} {{ end }}{{ printf \"%03d|%-6s|%.2f|%q\" 7 .System 2.5 .Prompt }}{{ 1_000 }}{{ 'a' }}",
}  # fmt: skip

DATA: dict[str, Any] = {
    "System": "Be <brief> & kind.",
    "Prompt": "Why?",
    "Response": "",
    "Suffix": "tail",
    "Think": False,
    "IsThinkSet": True,
    "Tools": [
        {"Type": "function", "Function": {"Name": "look", "Description": "Looks.", "Parameters": {"Properties": {
            "b": {"Type": "string"}, "a": {"Type": "integer"}}}}}
    ],
    "Messages": [
        {"Role": "system", "Content": "Be <brief> & kind."},
        {"Role": "user", "Content": "Where?"},
        {"Role": "assistant", "Content": "", "Thinking": "hm", "ToolCalls": [
            {"Function": {"Name": "look", "Arguments": {"b": "x", "a": 1}}},
            {"Function": {"Name": "look", "Arguments": {}}}]},
        {"Role": "tool", "Content": 'a "b"'},
        {"Role": "assistant", "Content": "There."},
        {"Role": "user", "Content": "Why?"},
    ],
}  # fmt: skip
