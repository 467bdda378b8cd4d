// What programs for Node do with the kernel, a line for each that worked.
const { Worker } = require("worker_threads");
const fs = require("fs"), cp = require("child_process"), crypto = require("crypto"), net = require("net"), dns = require("dns");
const steps = {
  worker: () => new Promise((ok, no) => new Worker("require('worker_threads').parentPort.postMessage(6*7)", { eval: true })
    .on("message", (n) => n === 42 ? ok() : no(n)).on("error", no)),
  child: () => new Promise((ok, no) => cp.execFile("echo", ["x"], (e, out) => e || out !== "x\n" ? no(e || out) : ok())),
  fork: () => new Promise((ok, no) => { fs.writeFileSync("/workspace/f.js", "process.send('x')");
    cp.fork("/workspace/f.js").on("message", ok).on("error", no); }),
  crypto: () => new Promise((ok, no) => crypto.generateKeyPair("ec", { namedCurve: "P-256" }, (e) => e ? no(e) : ok())),
  scrypt: () => new Promise((ok, no) => crypto.scrypt("a", "b", 32, (e) => e ? no(e) : ok())),
  watch: () => new Promise((ok) => { const w = fs.watch("/workspace", () => { w.close(); ok(); }); fs.writeFileSync("/workspace/w", ""); }),
  files: async () => { await fs.promises.writeFile("/workspace/p", "x".repeat(1e6)); await fs.promises.copyFile("/workspace/p", "/workspace/q");
    if ((await fs.promises.stat("/workspace/q")).size !== 1e6) throw new Error("size"); },
  server: () => new Promise((ok, no) => { const s = net.createServer((c) => c.end("x")).listen(0, "127.0.0.1", () =>
    net.connect(s.address().port, "127.0.0.1").on("data", () => { s.close(); ok(); }).on("error", no)); }),
  lookup: () => new Promise((ok, no) => dns.lookup("localhost", (e) => e ? no(e) : ok())),
};
(async () => { for (const [name, step] of Object.entries(steps)) { await step(); console.log(name); } console.log("end"); })();
