// Icons as strokes on a grid of 20, in the colour of the text around them.

const PATHS = {
  plus: "M10 4v12M4 10h12",
  completion: "M3 4h14v9H9l-4 3v-3H3z",
  tools: "M16 5a4 4 0 0 1-5 5l-5 6-2-2 6-5a4 4 0 0 1 5-5l-2 2 1 1z",
  vision: "M2 10s3-5 8-5 8 5 8 5-3 5-8 5-8-5-8-5zM10 8v4M8 10h4",
  thinking: "M7 14c-5-4-2-11 3-11s8 7 3 11M8 17h4M7 14h6",
  embedding: "M4 16V4M4 16h12M8 12l2-4M12 11l3-5",
  rerank: "M4 5h5M4 10h8M4 15h12M15 4v6M13 6l2-2 2 2",
  insert: "M7 3h6M7 17h6M10 3v14",
  transcription: "M10 2a2 2 0 0 1 2 2v5a2 2 0 0 1-4 0V4a2 2 0 0 1 2-2zM5 9a5 5 0 0 0 10 0M10 14v4M7 18h6",
  speech: "M3 8v4h3l4 4V4L6 8zM13 7a4 4 0 0 1 0 6M15 4a8 8 0 0 1 0 12",
  stop: "M5 5h10v10H5z",
};
PATHS.audio = PATHS.transcription;

export function Icon({ name, size = 20 }) {
  return PATHS[name] ? <svg class="drawn" viewBox="0 0 20 20" width={size} height={size} aria-hidden="true"><path d={PATHS[name]} /></svg> : null;
}
