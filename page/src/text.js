// Quantities as text. Pure.

export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return value < 172800 ? `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min` : `${Math.floor(value / 86400)} days`;
}

export const speed = (value) => (value < 100 ? value.toFixed(1) : count(Math.round(value)));

export const count = (value) => value.toLocaleString("en-US");

export function ago(date) {
  const passed = (Date.now() - new Date(date).getTime()) / 1000;
  if (passed < 90) return "just now";
  if (passed < 5400) return `${Math.round(passed / 60)} minutes ago`;
  if (passed < 129600) return `${Math.round(passed / 3600)} hours ago`;
  return `${Math.round(passed / 86400)} days ago`;
}

export const shortName = (name) => name.replace(/:latest$/, "");
