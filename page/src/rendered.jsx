// A text in Markdown, with coloured code that can be copied, and formulas.

import { useEffect, useRef } from "preact/hooks";
import { finish, toHtml } from "./markdown.js";
import { copied } from "./parts.jsx";

export function Text({ text, writing }) {
  const element = useRef();
  useEffect(() => {
    element.current.innerHTML = toHtml(text);
    if (!writing) finish(element.current).catch((error) => console.warn("code and formulas stay plain:", error));
  }, [text, writing]);
  const copyCode = async ({ target }) => {
    if (!target.classList.contains("copy")) return;
    const done = await copied(target.closest(".code").querySelector("code").textContent.replace(/\n$/, ""));
    target.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { target.textContent = "Copy"; }, 1500);
  };
  return <div class="text" ref={element} onClick={copyCode} />;
}
