// Charts of the last hour; loaded with the view that shows them.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const HEIGHT = 110;

/** Draw a line of values over Unix times into an element, and return the chart. `top`: what the axis shows at least. */
export function draw(element, { times, values, top, say }) {
  const { color, borderTopColor, outlineColor } = getComputedStyle(element); // as the scheme resolves them
  const axis = { stroke: outlineColor, grid: { stroke: borderTopColor, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const options = {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 8, 0, 0],
    scales: { y: { range: (_, __, most) => [0, Math.max(1.1 * (most || 0), top)] } },
    axes: [{ ...axis, size: 24, space: 70, values: [[60, "{HH}:{mm}"], [1, "{HH}:{mm}:{ss}"]] }, { ...axis, size: 58, space: 26, values: (_, ticks) => ticks.map(say) }],
    series: [{}, { stroke: color, fill: color.replace(/^rgb\((.*)\)$/, "rgba($1, 0.12)"), width: 1.5, points: { show: values.length < 3 || values.includes(null), size: 5 }, spanGaps: true }],
  };
  return new uPlot(options, [times, values], element);
}
