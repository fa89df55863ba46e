// Bundles the monitor for anywidget (one ES module and one style sheet, with nothing to load from
// elsewhere), and the panel's own modules into one that @jupyter/builder makes an extension of.
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const common = {
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  logLevel: "info",
};

const builds = [
  {
    ...common,
    entryPoints: { monitor: here("src/widget.ts") },
    outdir: here("../jupyter_pool/notebook/static"),
    minify: true,
  },
  {
    ...common,
    entryPoints: { index: here("src/panel/index.ts") },
    outdir: here("lib"),
    // JupyterLab brings these along.
    external: ["@jupyterlab/*", "@lumino/*"],
  },
];

if (process.argv.includes("--watch")) {
  for (const build of builds) {
    const context = await esbuild.context({ ...build, minify: false });
    await context.watch();
  }
} else {
  await Promise.all(builds.map((build) => esbuild.build(build)));
}
