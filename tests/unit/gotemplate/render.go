// Renders templates with Go's own text/template: one JSON object a line, {"template", "data"}, answered with
// {"text"} or {"error"}. Whole numbers are int64, as in the data of the tests.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"text/template"
)

func plain(value any) any {
	switch v := value.(type) {
	case json.Number:
		if whole, err := v.Int64(); err == nil {
			return int(whole)
		}
		float, _ := v.Float64()
		return float
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = plain(v[key])
		}
	}
	return value
}

func render(source string, data any) (string, error) {
	funcs := template.FuncMap{"json": func(v any) string { b, _ := json.Marshal(v); return string(b) }}
	made, err := template.New("").Option("missingkey=zero").Funcs(funcs).Parse(source)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = made.Execute(&out, data)
	return out.String(), err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var call struct {
			Template string `json:"template"`
			Data     any    `json:"data"`
		}
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.UseNumber()
		if err := decoder.Decode(&call); err != nil {
			panic(err)
		}
		text, err := render(call.Template, plain(call.Data))
		answer := map[string]any{"text": text}
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		answers.Encode(answer)
	}
}
