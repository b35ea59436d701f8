// Builds the page into the plugin's folder. The names of the files are fixed, so that a change shows as a change in
// git; the server sends an ETag with each.
import { readdirSync, readFileSync } from "node:fs";
import { defineConfig } from "vite";

const BUNDLED = ["preact", "marked", "dompurify", "highlight.js", "katex"];

/** The licences of the packages whose code is in the built files. */
function licences() {
  return {
    name: "licences",
    generateBundle() {
      const source = BUNDLED.map((name) => {
        const folder = `node_modules/${name}`;
        const { version } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
        const notice = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
        return `${name} ${version}\n\n${readFileSync(`${folder}/${notice}`, "utf8").trim()}\n`;
      }).join(`\n${"-".repeat(80)}\n\n`);
      this.emitFile({ type: "asset", fileName: "licences.txt", source });
    },
  };
}

export default defineConfig({
  base: "/ui/",
  plugins: [licences()],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  server: { proxy: { "/api": "http://127.0.0.1:11434", "/metrics": "http://127.0.0.1:11434" } },
  build: {
    outDir: process.env.OUT || "../plugins/ollmlx_page/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: { entryFileNames: "[name].js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
});
