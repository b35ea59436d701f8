// A model's text as safe HTML. HTML that a model writes is shown as text; what Markdown makes of the rest is cleaned
// once more; pictures of other hosts become links, because the address alone would tell the host what was said.

import DOMPurify from "dompurify";
import { Marked } from "marked";

const LINK = /^(https?:|mailto:)/i;
const escaped = (text) => text.replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);

const math = (name, level, start, rule, display) => ({
  name,
  level,
  start: (source) => source.search(start),
  tokenizer(source) {
    const found = rule.exec(source);
    return found ? { type: name, raw: found[0], tex: (found[1] ?? found[2]).trim() } : undefined;
  },
  renderer: ({ tex }) => `<span class="math${display ? " display" : ""}">${escaped(tex)}</span>`,
});

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: [
    math("mathBlock", "block", /\$\$|\\\[/, /^ {0,3}(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])(?:\s*\n|$)/, true),
    math("mathDisplay", "inline", /\$\$|\\\[/, /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])/, true),
    math("mathInline", "inline", /\$|\\\(/, /^(?:\$(?![\s\d$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\((.+?)\\\))/, false),
  ],
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => link(href, escaped(text || href)),
    link({ href, tokens }) {
      return link(href, this.parser.parseInline(tokens));
    },
    code: ({ text, lang }) => {
      const language = (lang || "").match(/^[\w+#.-]*/)[0];
      return (
        `<div class="code"><div class="bar"><span>${escaped(language || "text")}</span>` +
        `<button type="button" class="copy">Copy</button></div>` +
        `<pre tabindex="0"><code class="language-${escaped(language || "text")}">${escaped(text)}\n</code></pre></div>`
      );
    },
    table(token) {
      const cells = (row, tag) => `<tr>${row.map((cell) => `<${tag}${cell.align ? ` class="${cell.align}"` : ""}>${this.parser.parseInline(cell.tokens)}</${tag}>`).join("")}</tr>`;
      return `<div class="table" tabindex="0"><table><thead>${cells(token.header, "th")}</thead><tbody>${token.rows.map((row) => cells(row, "td")).join("")}</tbody></table></div>`;
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

function link(href, content) {
  if (!LINK.test(href)) return `${content} (${escaped(href)})`;
  return `<a href="${escaped(href)}" target="_blank" rel="noopener noreferrer nofollow">${content}</a>`;
}

const CLEAN = {
  ALLOWED_TAGS: "a b blockquote br button code del div em h1 h2 h3 h4 h5 h6 hr i li ol p pre span strong sub sup table tbody td th thead tr ul".split(" "),
  ALLOWED_ATTR: ["class", "href", "rel", "start", "tabindex", "target", "type"],
  ALLOWED_URI_REGEXP: LINK,
};

export function toHtml(text) {
  return DOMPurify.sanitize(marked.parse(text), CLEAN);
}

/** Colour the code and set the formulas of an element. The libraries are loaded when there is something for them. */
export async function finish(element) {
  const codes = element.querySelectorAll("pre code:not([data-done])");
  const formulas = element.querySelectorAll(".math:not([data-done])");
  if (codes.length) {
    const { highlighted } = await import("./highlight.js");
    for (const code of codes) {
      const html = highlighted(code.textContent, code.className.replace("language-", ""));
      if (html !== null) code.innerHTML = DOMPurify.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"] });
      code.dataset.done = "";
    }
  }
  if (formulas.length) {
    const { setFormula } = await import("./formulas.js");
    for (const formula of formulas) setFormula(formula);
  }
}
