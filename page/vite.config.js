// Builds the page into the plugin's folder. The names of the files are fixed, so that a change shows as a change in
// git; the server sends an ETag with each.
import { readdirSync, readFileSync } from "node:fs";
import { defineConfig } from "vite";

/** The licences of the packages whose code is in the built files. */
function licences() {
  return {
    name: "licences",
    generateBundle(_options, bundle) {
      const modules = Object.values(bundle).flatMap((file) => Object.entries(file.modules ?? {}));
      const kept = modules.filter(([, module]) => module.renderedLength > 0).map(([id]) => id);
      const names = kept.map((id) => /^\0(\w+)\/|node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(id)).filter(Boolean);
      const packages = new Set(names.map(([, builder, used]) => builder ?? used)); // the builders' few lines included
      const source = [...packages].sort().map((name) => {
        const folder = `node_modules/${name}`;
        const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
        const notice = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
        const text = readFileSync(`${folder}/${notice}`, "utf8").split("\n# Licenses of bundled dependencies")[0].trim();
        return `${name} ${version}: ${license}\n\n${text}\n`;
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
