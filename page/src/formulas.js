// Formulas as MathML, which browsers set with their own fonts; loaded with the first formula that is shown.

import katex from "katex";

export function setFormula(element) {
  const tex = element.textContent;
  element.dataset.done = "";
  katex.render(tex, element, { output: "mathml", displayMode: element.classList.contains("display"), throwOnError: false, trust: false, maxExpand: 500, maxSize: 20 });
}
