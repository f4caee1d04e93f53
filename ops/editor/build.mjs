// `npm ci --ignore-scripts && node build.mjs`: the editor's bundle into the console, with the licences of what is in
// it and its checksums. It is run when a version changes, and its outcome is committed: nobody needs npm to install.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const vendor = process.argv[2] ?? join(here, "../../src/surgetank/console/static/vendor");
const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8"));
const NAME = "editor.min.js";

const made = await build({
  absWorkingDir: here, entryPoints: ["editor.mjs"], bundle: true, minify: true, format: "iife", globalName: "surgetankEditor",
  target: "es2022", legalComments: "none", charset: "utf8", metafile: true, write: false, treeShaking: true,
});
const inside = [...new Set(Object.keys(made.metafile.inputs).filter((path) => path.startsWith("node_modules/"))
  .map((path) => path.split("/").slice(1, path.startsWith("node_modules/@") ? 3 : 2).join("/")))].sort();
const packages = inside.map((name) => {
  const { version, license, integrity } = lock.packages[`node_modules/${name}`];
  return { package: name, version, license, integrity };
});
const licences = inside.map((name) => `${name} ${lock.packages[`node_modules/${name}`].version}\n\n${readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8").trim()}\n`);
const files = { [NAME]: Buffer.from(made.outputFiles[0].contents), "editor.LICENSE": Buffer.from(licences.join(`\n${"-".repeat(80)}\n\n`)) };
for (const [name, data] of Object.entries(files)) writeFileSync(join(vendor, name), data);

const sha256 = (/** @type {string | Buffer} */ data) => createHash("sha256").update(data).digest("hex");
const listing = join(vendor, "vendored.json");
const others = JSON.parse(readFileSync(listing, "utf8")).filter((/** @type {any} */ each) => each.package !== "surgetank-console-editor");
const lines = readFileSync(join(here, "package-lock.json"));
others.push({
  package: "surgetank-console-editor", version: lock.packages["node_modules/@codemirror/view"].version, license: "MIT",
  integrity: `sha512-${createHash("sha512").update(lines).digest("base64")}`, lock: "ops/editor/package-lock.json", packages,
  files: Object.fromEntries(Object.entries(files).map(([name, data]) => [name, { from: "ops/editor/build.mjs", sha256: sha256(data) }])),
});
writeFileSync(listing, `${JSON.stringify(others, null, 2)}\n`);
console.log(`${NAME}: ${files[NAME].length} bytes of ${inside.length} packages`);
