"use strict";
// Every text of the agent's goes through `textContent`: nothing in it becomes an element.
const EVERY = 2000;
const PATIENCE = 5000;
const at = (id) => document.getElementById(id);
const REASONS = {
  script: "exit code", signal: "by a signal", memory: "memory limit", disk: "disk limit", timeout: "",
  cancelled: "", partial: "on some servers", refused: "refused", infrastructure: "infrastructure",
};
let paused = false;
let lastAnswer = null;

function put(node, text, mood) {
  if (node.textContent !== text) node.textContent = text;
  node.classList.remove("good", "warn", "bad", "quiet");
  if (mood) node.classList.add(mood);
}

function make(name, text, classes) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (classes) node.className = classes;
  return node;
}

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor((s / 60) % 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor((s / 3600) % 24) + " h";
}

function took(seconds) {
  return seconds < 10 ? seconds.toFixed(1) + " s" : span(seconds);
}

function row(job, cells) {
  const line = make("tr");
  const head = make("th");
  head.scope = "row";
  if (job.event) head.append(make("span", job.event, "name"));
  head.append(make("span", job.id, "id"));
  line.append(head, ...cells);
  return line;
}

function fill(id, rows, columns, none) {
  const body = at(id);
  if (rows.length === 0) {
    const cell = make("td", none, "quiet");
    cell.colSpan = columns;
    const line = make("tr");
    line.append(cell);
    rows = [line];
  }
  body.replaceChildren(...rows);
}

function count(id, shown, all) {
  const caption = at(id).closest("table").caption;
  let small = caption.querySelector("small");
  if (!small) caption.append((small = make("small")));
  put(small, all > shown ? "the first " + shown + " of " + all : shown > 0 ? String(shown) : "");
}

// A line over the last minutes, with what it shows in words.
function draw(id, values, every, what, unit) {
  const known = values.filter((value) => value !== null);
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", "0 0 120 32");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const most = Math.max(1, ...known);
  const minutes = Math.max(1, Math.round((values.length * every) / 60));
  svg.setAttribute("aria-label", known.length === 0 ? what + ": nothing is known yet"
    : what + " over the last " + minutes + " min: now " + known[known.length - 1] + unit + ", at most " + Math.max(...known) + unit);
  const step = 120 / Math.max(1, values.length - 1);
  const points = [];
  values.forEach((value, index) => {
    if (value !== null) points.push((index * step).toFixed(1) + "," + (30 - (28 * value) / most).toFixed(1));
  });
  const line = document.createElementNS(NS, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  at(id).replaceChildren(svg);
}

function verdict(job) {
  if (job.status === "completed" && job.reason === "success") return ["completed", "good"];
  const known = Object.hasOwn(REASONS, job.reason) ? REASONS[job.reason] : job.reason;
  const why = job.reason === "script" ? known + " " + job.exitCode : known;
  return [why ? job.status + ", " + why : job.status, job.status === "cancelled" ? "quiet" : "bad"];
}

function tiles(now) {
  put(at("workers"), now.pool.busy + " of " + now.pool.workers);
  put(at("workers-note"), now.pool.busy >= now.pool.workers ? "all busy" : "busy");
  draw("workers-line", now.history.jobs, now.history.everySeconds, "Running jobs", "");
  const late = now.history.latencyMs.filter((ms) => ms !== null);
  put(at("backend"), late.length ? late[late.length - 1] + " ms" : "–");
  put(at("backend-note"), now.backend || "last answer", now.backend === "healthy" ? "" : now.backend ? "bad" : "");
  draw("backend-line", now.history.latencyMs, now.history.everySeconds, "Latency of the backend", " ms");
  const reports = now.reports;
  put(at("reports"), String(reports.waiting), reports.waiting > 0 && reports.oldestSeconds >= 60 ? "warn" : "");
  const aside = reports.setAside > 0 ? reports.setAside + " given up" : "";
  const oldest = reports.waiting > 0 ? "oldest " + span(reports.oldestSeconds || 0) : "";
  put(at("reports-note"), [oldest, aside].filter(Boolean).join(", "), aside ? "bad" : "");
  put(at("warm"), now.warm ? now.warm.waiting + " of " + now.warm.wanted : "none wanted", now.warm ? "" : "quiet");
  put(at("warm-note"), now.warm ? "wait for a script" : "");
  const proof = now.proofs;
  const failed = proof.failed > 0;
  put(at("proof"), proof.required === "off" ? "not proven" : failed ? proof.failed + " open"
    : proof.ageSeconds === null ? "not proven yet" : "all stand",
    failed ? "bad" : proof.required === "off" || proof.ageSeconds === null ? "quiet" : "good");
  put(at("proof-note"), proof.ageSeconds === null ? "" : (failed ? "looked at " : "proven ") + span(proof.ageSeconds) + " ago");
  put(at("servers"), String(now.servers.connections));
  const open = now.servers.allBreakers;
  put(at("servers-note"), "connections, " + now.servers.busy + " in use" + (open ? "; " + open + " not asked" : ""), open ? "bad" : "");
}

function show(now) {
  put(at("agent"), now.agent.id);
  put(at("about"), "cronium-agent " + now.agent.version + ", up " + span(now.agent.uptimeSeconds), "quiet");
  document.title = (now.ready ? "" : "Not ready: ") + now.agent.id;
  put(at("ready"), now.ready ? "Ready: it claims jobs" : "Claims no jobs: " + (now.whyNot || "it does not say why"), now.ready ? "good" : "bad");
  tiles(now);
  at("breakers-part").hidden = now.servers.breakers.length === 0;
  fill("breakers", now.servers.breakers.map((one) =>
    row({ id: one.server }, [make("td", one.state), make("td", String(one.failures), "end")])), 3, "none");
  count("breakers", now.servers.breakers.length, now.servers.allBreakers);
  fill("running", now.jobs.map((job) => row(job, [
    make("td", job.phase + (job.cancelled ? ", cancelled" : "") + " for " + span(job.phaseSeconds)),
    make("td", span(job.ageSeconds), "end"),
  ])), 3, "No job runs.");
  count("running", now.jobs.length, now.allJobs);
  fill("ended", now.ended.map((job) => {
    const [words, mood] = verdict(job);
    return row(job, [make("td", words, mood), make("td", took(job.seconds), "end spare"), make("td", span(job.agoSeconds), "end")]);
  }), 4, "No job has ended since the start.");
  count("ended", now.ended.length, now.ended.length);
}

function lost(why) {
  const since = lastAnswer ? " since " + lastAnswer.toLocaleTimeString() + ". What is shown is older." : ".";
  put(at("lost"), "The agent does not answer" + since + (why ? " " + why : ""));
  at("lost").hidden = false;
  document.querySelector("main").classList.add("old");
}

async function ask() {
  if (!paused && !document.hidden) {
    try {
      const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (answer.status === 503) throw new Error("It is still starting.");
      if (!answer.ok) throw new Error("");
      show(await answer.json());
      lastAnswer = new Date();
      at("lost").hidden = true;
      document.querySelector("main").classList.remove("old");
    } catch (error) {
      lost(error.message === "It is still starting." ? error.message : "");
    }
  }
  setTimeout(ask, EVERY);
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  put(at("pause"), paused ? "Resume" : "Pause");
});
ask();
