// The helpers of a Cronium script in Node.js.
//
// The agent sends this file along with a script that names them, and has Node.js read it first. `cronium` is a global;
// `require("cronium")` works too. Every call is synchronous and gives a plain value, so that `await` before it does no harm.
// `input` and `event` are files beside this one. Everything else is a request to the agent: over its Unix socket in a
// container, by files in the job's folder on a server. A call waits while the agent or a server is away.
"use strict";
(() => {
  const fs = require("fs");
  const path = require("path");
  const folder = __dirname;
  const { CRONIUM_RUNTIME_SOCKET: socket, CRONIUM_EXECUTION_TOKEN: token = "", CRONIUM_EXECUTION_ID: execution = "" } =
    process.env;
  // The longest that one call takes.
  const LIMIT = 600;

  /** A helper could not do what it was asked for. The message says why; `statusCode` is the agent's, if it answered. */
  class CroniumError extends Error {
    constructor(message, statusCode) {
      super(message);
      this.name = "CroniumError";
      this.statusCode = statusCode;
    }
  }

  const cronium = {
    /** What this script is given to work on: what the script before it gave as its output, else {}. */
    input: () => read("input"),
    /** What is known of the event: id, name, type, runLocation, userId, executionId, jobId, and server or null. */
    event: () => read("event"),
    /** Hands on any JSON value. The last call counts. */
    output(data) {
      ask("POST", "output", { data: data === undefined ? null : data });
    },
    /** A variable of the event's owner: a text, or the object or array that was set. Without one, null. */
    getVariable(key) {
      const found = ask("GET", variable(key), undefined, true);
      return found === null ? null : found.value;
    },
    /** Sets a variable. An object or an array comes back as such, everything else as text. */
    setVariable(key, value) {
      ask("PUT", variable(key), { value: value === undefined ? null : value });
    },
    /**
     * From here on the agent takes this text out of all that it passes on of this script. true, or false where the text is too
     * short or a common word.
     */
    redact: (value) => ask("POST", "redact", { value: value === undefined ? null : value }).redacted,
    /** What was set as this script's condition, else false. */
    getCondition: () => ask("GET", "condition").condition,
    /** true runs what depends on this script's condition. */
    setCondition(condition) {
      ask("POST", "condition", { condition: Boolean(condition) });
    },
    variableExists: (key) => ask("GET", variable(key), undefined, true) !== null,
    /** Adds to a number, 0 where there is none; the sum. Two scripts at once may count one for both. */
    incrementVariable(key, by = 1) {
      const text = cronium.getVariable(key);
      const value = (text === null || text === "" ? 0 : Number(text)) + Number(by);
      if (!Number.isSafeInteger(value)) throw new CroniumError(`the variable ${JSON.stringify(key)} is not a whole number`);
      cronium.setVariable(key, String(value));
      return value;
    },
    /** Appends to a text, with the separator between the two; the new text. */
    appendVariable(key, text, separator = "") {
      const before = cronium.getVariable(key);
      const value = before ? `${before}${separator}${text}` : String(text);
      cronium.setVariable(key, value);
      return value;
    },
    executeToolAction() {
      throw new CroniumError("tool actions and mails are not to be had from a script: use an action of the event", 501);
    },
    CroniumError,
  };
  const { executeToolAction } = cronium;
  Object.assign(cronium, {
    get_variable: cronium.getVariable,
    set_variable: cronium.setVariable,
    get_condition: cronium.getCondition,
    set_condition: cronium.setCondition,
    sendEmail: executeToolAction,
    sendSlackMessage: executeToolAction,
    sendDiscordMessage: executeToolAction,
  });
  cronium.cronium = cronium;
  module.exports = cronium;
  Object.defineProperty(global, "cronium", { value: cronium, writable: true, configurable: true, enumerable: false });

  // `require("cronium")` from any folder.
  const Module = require("module");
  const load = Module._load;
  Module._load = function (request, ...rest) {
    return request === "cronium" ? cronium : load.call(this, request, ...rest);
  };

  function read(name) {
    return JSON.parse(fs.readFileSync(path.join(folder, name), "utf8"));
  }

  function variable(key) {
    if (key === undefined || String(key) === "") throw new CroniumError("a variable needs a name");
    return "variables/" + encodeURIComponent(String(key));
  }

  function sleep(ms) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  }

  /** One call; the answer's data. `missing`: a 404 is null. */
  function ask(method, target, body, missing) {
    let text = "";
    if (body !== undefined) {
      try {
        text = JSON.stringify(body);
      } catch (error) {
        throw new CroniumError(`this cannot be written as JSON: ${error.message.split("\n")[0]}`);
      }
    }
    const until = Date.now() + LIMIT * 1000;
    let answer;
    for (let pause = 20; ; pause = Math.min(pause * 2, 1000)) {
      answer = socket ? overSocket(method, target, text, until) : byFiles(method, target, text, until);
      if (!answer.error) break;
      if (["EACCES", "EPERM"].includes(answer.code)) {
        throw new CroniumError(`this script may not reach the agent: ${answer.error}`);
      }
      if (Date.now() + pause > until) {
        throw new CroniumError(`the agent did not answer within ${LIMIT} s: ${answer.error}`);
      }
      sleep(pause);
    }
    if (answer.status === 404 && missing) return null;
    let found;
    try {
      found = JSON.parse(answer.body);
    } catch (_) {
      found = { message: answer.body.trim() };
    }
    if (answer.status !== 200) {
      throw new CroniumError(found.message || `the agent answered ${answer.status}`, answer.status);
    }
    return found.data;
  }

  // What talks to the socket while this thread waits: Node.js has no synchronous sockets.
  const TALKER = `
    const { parentPort, workerData: { socketPath, token, signal, port } } = require("worker_threads");
    const http = require("http");
    parentPort.on("message", ({ method, path, body }) => {
      const done = (answer) => {
        port.postMessage(answer);
        Atomics.store(signal, 0, 1);
        Atomics.notify(signal, 0);
      };
      const failed = (error) => done({ error: error.message, code: error.code });
      const headers = { Authorization: "Bearer " + token, "Content-Length": Buffer.byteLength(body) };
      const request = http.request({ socketPath, method, path, headers, agent: false }, (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("aborted", () => failed(new Error("the agent hung up")));
        response.on("error", () => {});
        response.on("end", () => {
          if (response.complete) done({ status: response.statusCode, body: Buffer.concat(parts).toString() });
        });
        // What is left of a refused body is of no use.
        request.removeListener("error", failed);
        request.on("error", () => {});
      });
      request.on("error", failed);
      request.end(body);
    });
  `;
  let talker;

  function overSocket(method, target, body, until) {
    const { Worker, MessageChannel, receiveMessageOnPort } = require("worker_threads");
    if (!talker) {
      const { port1: own, port2: port } = new MessageChannel();
      const signal = new Int32Array(new SharedArrayBuffer(4));
      const workerData = { socketPath: socket, token, signal, port };
      const worker = new Worker(TALKER, { eval: true, execArgv: [], env: {}, workerData, transferList: [port] });
      worker.unref();
      worker.on("error", () => {});
      talker = { own, signal, worker };
    }
    Atomics.store(talker.signal, 0, 0);
    talker.worker.postMessage({ method, path: `/executions/${execution}/${target}`, body });
    const ended = Atomics.wait(talker.signal, 0, 0, Math.max(until - Date.now(), 1));
    if (ended === "timed-out") {
      // Its answer would be taken for the next one's.
      talker.worker.terminate();
      talker = undefined;
      return { error: "no answer came" };
    }
    return receiveMessageOnPort(talker.own).message;
  }

  function byFiles(method, target, body, until) {
    const calls = path.join(folder, "calls");
    if (!fs.existsSync(calls)) throw new CroniumError(unreachable());
    const name = path.join(calls, `${process.pid}-${require("crypto").randomBytes(8).toString("hex")}`);
    fs.writeFileSync(`${name}.new`, `${method} ${target}\n${body}`);
    fs.renameSync(`${name}.new`, `${name}.q`);
    let rung = 0;
    for (let pause = 2; !fs.existsSync(`${name}.a`); pause = Math.min(pause * 1.5, 100)) {
      if (Date.now() > until) {
        throw new CroniumError(`the agent did not answer within ${LIMIT} s`);
      }
      if (Date.now() > rung + 5000) {
        rung = Date.now();
        const bell = fs.openSync(path.join(folder, "bell"), fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
        try {
          fs.writeSync(bell, "\n");
        } catch (_) {
          // It is full: what reads it will look.
        } finally {
          fs.closeSync(bell);
        }
      }
      sleep(pause);
    }
    const answer = fs.readFileSync(`${name}.a`, "utf8");
    fs.unlinkSync(`${name}.a`);
    const end = answer.indexOf("\n");
    return { status: Number(answer.slice(0, end)), body: answer.slice(end + 1) };
  }

  function unreachable() {
    let why = "it is not there";
    try {
      why = fs.readFileSync(path.join(folder, "unreachable"), "utf8").trim();
    } catch (_) {}
    return `this script cannot reach the agent: ${why}`;
  }
})();
