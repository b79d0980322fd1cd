// The page as a whole: the list of dialogues, addresses, and keys.

const LISTED = 200; // dialogues put into the list at a time

const data = await readData();
const byId = new Map(data.dialogues.map((dialogue) => [dialogue.id, dialogue]));
const list = document.getElementById("dialogues");
const article = document.getElementById("dialogue");
const more = document.getElementById("more");
const form = document.getElementById("filters");
let shown = []; // dialogues that match the filters
let current = null;

/** Return the dialogue and turn of an address: `#<dialogue>` or `#…/<dialogue>[/<turn>]`, percent-encoded. */
function readAddress(hash) {
  const parts = hash.replace(/^#/, "").split("/").map(decoded);
  for (const name of [decoded(hash.replace(/^#/, "")), parts.at(-1)]) {
    if (byId.has(name)) return { dialogue: byId.get(name) };
  }
  if (/^\d+$/.test(parts.at(-1))) {
    for (const name of [parts.slice(0, -1).join("/"), parts.at(-2)]) {
      if (byId.has(name)) return { dialogue: byId.get(name), turn: Number(parts.at(-1)) };
    }
  }
  return {};
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
  const { dialogue, turn } = readAddress(location.hash);
  if (dialogue === undefined) return;
  show(dialogue);
  const target = turn === undefined ? null : article.querySelector(`[data-turn="${turn}"]`);
  article.querySelectorAll(".current").forEach((one) => one.classList.remove("current"));
  target?.classList.add("current");
  (target ?? article).scrollIntoView({ block: "start" });
  (target ?? article).focus({ preventScroll: true });
}

function show(dialogue) {
  current = dialogue;
  showDialogue(article, data, dialogue, readFilters(), document.getElementById("mark-words").checked);
  markCurrent();
}

function markCurrent() {
  list.querySelectorAll("[aria-current]").forEach((link) => link.removeAttribute("aria-current"));
  const at = current === null ? -1 : shown.indexOf(current);
  while (at >= list.childElementCount) extendList();
  const link = list.children[at]?.firstElementChild;
  link?.setAttribute("aria-current", "true");
  link?.scrollIntoView({ block: "nearest" });
}

function extendList() {
  const next = shown.slice(list.childElementCount, list.childElementCount + LISTED);
  list.append(...next.map(listItem));
  more.hidden = list.childElementCount >= shown.length;
}

function listItem(dialogue) {
  const link = make("a", { href: addressOf(dialogue.id), dir: "auto" }, visible(dialogue.id));
  const columns = columnsOf(data, dialogue, readFilters());
  const failed = columns.filter((reply) => reply.failed).length;
  if (failed > 0) link.append(make("span", { class: "failed" }, columns.length === 1 ? " failed" : ` ${failed} of ${columns.length} failed`));
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
  } else show(shown.includes(current) ? current : shown[0]);
}

/** Go to the dialogue, turn or failure before or after. */
function move(kind, step) {
  if (kind === "dialogue") {
    const next = shown[shown.indexOf(current) + step];
    if (next !== undefined) location.hash = addressOf(next.id);
    return;
  }
  const selector = kind === "turn" ? "[data-turn]" : "[data-turn]:has(.verdict.failed, .facts.error)";
  const turns = [...article.querySelectorAll(selector)].map((one) => Number(one.dataset.turn));
  const here = readAddress(location.hash).dialogue === current ? (readAddress(location.hash).turn ?? 0) : 0;
  const next = step > 0 ? turns.find((turn) => turn > here) : turns.findLast((turn) => turn < here);
  if (next !== undefined) location.hash = addressOf(current.id, next);
  else if (kind === "failure") {
    const later = shown.slice(shown.indexOf(current) + 1).find((one) => columnsOf(data, one, readFilters()).some((reply) => reply.failed));
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
document.addEventListener("keydown", onKey);
filter();
followAddress();
document.documentElement.dataset.ready = "true";
