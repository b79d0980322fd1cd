// The page as a whole: the list of dialogues, addresses, and keys.

const LISTED = 200; // dialogues put into the list at a time

const data = await readData().catch((error) => {
  const what = "The transcripts cannot be unpacked: open this page with a browser of 2023 or newer.";
  document.getElementById("found").textContent = `${what} (${error.message})`;
  throw error;
});
data.isComparison = data.columns.some((column) => column.role !== "");
const byId = new Map(data.dialogues.map((dialogue) => [dialogue.id, dialogue]));
const pane = document.getElementById("list");
const list = document.getElementById("dialogues");
const article = document.getElementById("dialogue");
const more = document.getElementById("more");
const form = document.getElementById("filters");
let shown = []; // dialogues that match the filters
let current = null;

/**
 * Return the dialogue and turn of an address: `#<dialogue>` or `#…/<dialogue>[/<turn>]`, percent-encoded. An id that
 * was typed without encoding is found too, where the address does not name another dialogue's turn.
 */
function readAddress(hash) {
  const whole = hash.replace(/^#/, "");
  const parts = whole.split("/").map(decoded);
  const last = parts.at(-1);
  const isTurn = parts.length > 1 && /^[0-9]+$/.test(last);
  const before = isTurn ? [parts.at(-2), decoded(whole.slice(0, whole.lastIndexOf("/")))] : [];
  const named = before.map((name) => byId.get(name)).filter((dialogue) => dialogue !== undefined);
  const withTurn = named.find((dialogue) => Number(last) >= 1 && Number(last) <= lastTurn(dialogue));
  if (withTurn !== undefined) return { dialogue: withTurn, turn: Number(last) };
  return { dialogue: byId.get(decoded(whole)) ?? byId.get(last) ?? named[0] };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Show the dialogue that the address names, scrolled to its turn. */
function followAddress() {
  if (location.hash.length < 2) return;
  const { dialogue, turn } = readAddress(location.hash);
  if (dialogue === undefined && document.getElementById(location.hash.slice(1))?.matches("h2")) return;
  if (dialogue === undefined) {
    showMissing(decoded(location.hash.slice(1)));
    return;
  }
  show(dialogue);
  const target = turn === undefined ? null : article.querySelector(`[data-turn="${turn}"]`);
  target?.classList.add("current");
  (target ?? article).scrollIntoView({ block: "start" });
  (target ?? article).focus({ preventScroll: true });
}

function showMissing(address) {
  current = null;
  const where = document.getElementById("left-out") === null ? "" : " It may be one that was left out:";
  const command = make("code", {}, "convbatch show RUN DIALOGUE");
  article.replaceChildren(make("p", { class: "warning" }, visible(`This page has no dialogue “${address}”.`), where, " ", command));
  markCurrent();
  article.scrollIntoView({ block: "start" });
}

function show(dialogue) {
  current = dialogue;
  showDialogue(article, data, dialogue, readFilters(), document.getElementById("mark-words").checked);
  markCurrent();
}

/** Mark the shown dialogue in the list, which scrolls to it; the page does not. */
function markCurrent() {
  list.querySelectorAll("[aria-current]").forEach((link) => link.removeAttribute("aria-current"));
  const at = current === null ? -1 : shown.indexOf(current);
  while (at >= list.childElementCount) extendList();
  const item = list.children[at];
  if (item === undefined) return;
  item.firstElementChild.setAttribute("aria-current", "true");
  const [top, bottom] = [item.offsetTop, item.offsetTop + item.offsetHeight];
  if (top < pane.scrollTop || bottom > pane.scrollTop + pane.clientHeight) pane.scrollTop = top - pane.clientHeight / 3;
}

function extendList() {
  const next = shown.slice(list.childElementCount, list.childElementCount + LISTED);
  list.append(...next.map(listItem));
  more.hidden = list.childElementCount >= shown.length;
}

function listItem(dialogue) {
  const link = make("a", { href: addressOf(dialogue.id) }, make("bdi", {}, visible(dialogue.id)));
  const columns = columnsOf(data, dialogue, readFilters());
  const failed = columns.filter((reply) => reply.failed).length;
  const changes = data.isComparison ? new Set(new Map(dialogue.flips ?? []).values()) : new Set();
  if (changes.has("worse")) link.append(" ", make("span", { class: "badge harmful" }, "worse"));
  else if (changes.has("better")) link.append(" ", make("span", { class: "badge improved" }, "better"));
  else if (failed > 0) {
    const text = columns.length === 1 || failed === columns.length ? "failed" : `${failed} of ${columns.length} failed`;
    link.append(" ", make("span", { class: "badge failed" }, text));
  }
  return make("li", {}, link);
}

/** Apply the filters to the list, and to the dialogue that is shown. */
function filter() {
  const wanted = readFilters();
  shown = data.dialogues.filter((dialogue) => matches(data, dialogue, wanted));
  list.replaceChildren();
  extendList();
  const [count, all] = [shown.length, data.dialogues.length].map((number) => number.toLocaleString("en"));
  document.getElementById("found").textContent = `${count} of ${all} dialogues`;
  if (shown.length === 0) {
    current = null;
    article.replaceChildren(make("p", {}, "No dialogue matches these filters."));
  } else show(shown.includes(current) ? current : firstOf(shown));
}

/** Return the dialogue to begin with: the worst flip, else the first failure, else the first. */
function firstOf(dialogues) {
  const start = data.start === null ? undefined : readAddress(data.start).dialogue;
  if (dialogues.includes(start)) return start;
  return dialogues.find((dialogue) => hasFailed(dialogue)) ?? dialogues[0];
}

function hasFailed(dialogue) {
  return columnsOf(data, dialogue, readFilters()).some((reply) => reply.failed);
}

/** Go to the dialogue, turn or failure before or after. */
function move(kind, step) {
  if (current === null) return;
  if (kind === "dialogue") {
    const next = shown[shown.indexOf(current) + step];
    if (next !== undefined) location.hash = addressOf(next.id);
    return;
  }
  const failing = ".verdict.failed, .facts.error";
  const turns = [...article.querySelectorAll("[data-turn]")]
    .filter((one) => kind === "turn" || one.querySelector(failing) !== null)
    .map((one) => Number(one.dataset.turn));
  const here = readAddress(location.hash).dialogue === current ? (readAddress(location.hash).turn ?? 0) : 0;
  const next = step > 0 ? turns.find((turn) => turn > here) : turns.reverse().find((turn) => turn < here);
  if (next !== undefined) location.hash = addressOf(current.id, next);
  else if (kind === "failure") {
    const later = shown.slice(shown.indexOf(current) + 1).find(hasFailed);
    if (later !== undefined) location.hash = addressOf(later.id);
  }
}

const KEYS = new Map([
  ["j", () => move("dialogue", 1)],
  ["k", () => move("dialogue", -1)],
  ["n", () => move("turn", 1)],
  ["p", () => move("turn", -1)],
  ["f", () => move("failure", 1)],
  ["/", () => document.getElementById("filter-text").focus()],
]);

function onKey(event) {
  const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !KEYS.has(event.key)) return;
  event.preventDefault();
  KEYS.get(event.key)();
}

let waiting;
offerChoices(data);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", filter);
form.addEventListener("reset", () => setTimeout(filter));
document.getElementById("filter-text").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 150);
});
more.addEventListener("click", extendList);
window.addEventListener("hashchange", followAddress);
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link?.matches(".jump a") && readAddress(link.hash).dialogue !== undefined) {
    event.preventDefault(); // a dialogue has the name of a section: the address is the dialogue's
    document.getElementById(link.hash.slice(1)).scrollIntoView();
  } else if (link?.hash && link.hash === location.hash) followAddress(); // a second click on a link changes no address
});
document.addEventListener("keydown", onKey);
filter();
followAddress();
document.documentElement.dataset.ready = "true";
