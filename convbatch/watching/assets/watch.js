const EVERY_MS = 1000;
const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
let failures = 0;
let drawn = "";

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function duration(seconds) {
  if (seconds < 100) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.ceil(minutes / 1440)} days`;
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
const share = (part, whole) => `${((100 * part) / whole).toFixed(1)} %`;

const STATES = {
  running: ["running", ""],
  finished: ["finished", ""],
  interrupted: ["interrupted: convbatch resume continues it", "warn"],
  incomplete: ["incomplete: convbatch resume asks what is open", "warn"],
  killed: ["its process was killed: convbatch resume continues it", "bad"],
};

function totals(state) {
  const sum = (name) => state.targets.reduce((all, target) => all + target[name], 0);
  const failed = state.targets.reduce((all, target) => all + (target.statuses.error ?? 0), 0);
  const judged = state.targets.filter((target) => target.judged);
  const facts = [["turns", `${number.format(state.done)} of ${number.format(state.planned)}`]];
  if (state.state === "running") facts.push(["in flight", number.format(sum("in_flight"))]);
  if (failed) facts.push(["failed", number.format(failed), "bad"]);
  if (judged.length) {
    const passed = judged.reduce((all, target) => all + target.passed, 0);
    const all = judged.reduce((count, target) => count + target.judged, 0);
    facts.push(["dialogues passed so far", `${share(passed, all)} (${number.format(passed)} of ${number.format(all)})`]);
  }
  if (state.spent) facts.push(["spent, known cost", state.spent]);
  if (state.budget) facts.push(["budget", state.budget]);
  facts.push(["tokens in, out", `${number.format(sum("input_tokens"))}, ${number.format(sum("output_tokens"))}`]);
  if (state.per_s) facts.push(["turns per second", state.per_s.toFixed(1)]);
  if (state.left_s != null) facts.push(["left, about", duration(state.left_s)]);
  if (state.lost) facts.push(["possibly paid in killed sessions", number.format(state.lost), "warn"]);
  if (state.damaged) facts.push(["damaged journal lines", number.format(state.damaged), "bad"]);
  return facts;
}

function limits(target) {
  const parts = [];
  if (target.state) parts.push(target.state);
  if (target.refusals) {
    let text = `limit reached ${number.format(target.refusals)} times, last ${duration(target.refused_s)} ago`;
    if (target.asked_wait_s != null) text += `, asked to wait ${duration(target.asked_wait_s)}`;
    parts.push(text);
  }
  if (target.unpriced) parts.push(`${number.format(target.unpriced)} of unknown cost`);
  return parts.join("; ");
}

function others(target) {
  const found = Object.entries(target.statuses).filter(([status]) => status !== "ok");
  return found.map(([status, count]) => `${number.format(count)} ${status}`).join(", ");
}

function rows(targets, isRunning, hasChecks) {
  const head = ["target", "done", "in flight", "not ok", "passed", "spent", "tokens out"];
  const kept = head.filter((name) => (name !== "in flight" || isRunning) && (name !== "passed" || hasChecks));
  const body = targets.flatMap((target) => {
    const cells = {
      target: target.name,
      done: target.planned == null
        ? number.format(target.done)
        : `${number.format(target.done)}/${number.format(target.planned)}`,
      "in flight": number.format(target.in_flight),
      "not ok": others(target) || "–",
      passed: target.judged ? `${share(target.passed, target.judged)} of ${number.format(target.judged)}` : "–",
      spent: target.spent ?? "–",
      "tokens out": number.format(target.output_tokens),
    };
    const row = make("tr");
    row.append(...kept.map((name) => make("td", cells[name])));
    const why = limits(target);
    if (!why) return [row];
    const [below, cell] = [make("tr", undefined, "why"), make("td")];
    cell.append(make("div", why));
    cell.colSpan = kept.length;
    below.append(cell);
    return [row, below];
  });
  const heading = make("tr");
  heading.append(...kept.map((name) => {
    const cell = make("th", name);
    cell.scope = "col";
    return cell;
  }));
  const [top, rest] = [make("thead"), make("tbody")];
  top.append(heading);
  rest.append(...body);
  return [top, rest];
}

function draw(state) {
  const isRunning = state.state === "running";
  const [words, look] = STATES[state.state];
  at("run").textContent = state.run;
  at("source").textContent = `convbatch · ${state.folder}`;
  const session = state.session > 1 ? `, session ${state.session}` : "";
  const simulated = state.simulated.length ? ` · SIMULATED: ${state.simulated.join(", ")}` : "";
  const began = state.began == null ? "" : ` since ${clock(state.began)}`;
  at("state").textContent = (isRunning ? `${words}${began}${session}` : words) + simulated;
  at("state").className = look;
  document.title = `${Math.floor((100 * state.done) / (state.planned || 1))} % ${state.run}`;
  at("bar").max = state.planned || 1;
  at("bar").value = state.done;
  at("totals").replaceChildren(...totals(state).map(([name, text, mark]) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", text, mark));
    return pair;
  }));
  at("targets").replaceChildren(...rows(state.targets, isRunning, state.has_checks));
  at("passes").textContent = state.passes_at == null ? "" : `checks as of ${clock(state.passes_at)}`;
  at("judges-section").hidden = !state.judges.length;
  at("judges").replaceChildren(...rows(state.judges, isRunning, false));
  at("no-errors").hidden = state.errors.length > 0;
  at("errors").replaceChildren(...state.errors.map((error) => {
    const status = error.http_status == null ? "no answer" : `HTTP ${error.http_status}`;
    const turn = error.turn == null ? "" : ` turn ${error.turn}`;
    const line = make("li");
    line.append(make("strong", `${clock(error.at)} ${error.target} `),
      make("span", `${error.dialogue}${turn}: ${status}, ${error.kind}: ${error.message}`));
    return line;
  }));
  at("report").textContent = isRunning ? "Report so far" : "Report";
  notice(state.error ? `The run cannot be read completely: ${state.error}` : "");
}

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

async function look() {
  let wait = EVERY_MS;
  try {
    const answer = await fetch("state", { cache: "no-store", credentials: "omit", redirect: "error" });
    if (!answer.ok) throw new Error(String(answer.status));
    const text = await answer.text();
    failures = 0;
    const state = JSON.parse(text);
    if (text !== drawn) draw(state);
    drawn = text;
    if (state.has_report) {
      location.replace(`report${location.hash}`);
      return;
    }
  } catch {
    failures += 1;
    wait = Math.min(10_000, EVERY_MS * failures);
    if (failures === 3) notice("The server of this page has ended; what it shows is old. To look again: convbatch view");
  }
  setTimeout(look, wait);
}

look();
