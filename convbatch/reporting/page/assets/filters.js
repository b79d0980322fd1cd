// Filters: which dialogues the list has. Values of different filters must all match the same turn, as in
// `convbatch show`.

const FILTERS = ["outcome", "flipped", "status", "finish-reason", "error-kind", "check", "tag", "target"];
const LABELS = new Map([
  ["worse", "got worse"],
  ["better", "got better"],
  ["differs", "differs between columns"],
]);

/** Offer in each filter what the data has; a filter without a choice is hidden. */
function offerChoices(data) {
  const choices = Object.fromEntries(FILTERS.map((name) => [name, new Set()]));
  data.columns.forEach((column) => choices.target.add(column.name));
  for (const dialogue of data.dialogues) {
    dialogue.tags?.forEach((tag) => choices.tag.add(tag));
    flipsOf(dialogue, dialogue.replies ?? []).forEach((change) => choices.flipped.add(change));
    for (const reply of dialogue.replies ?? []) {
      choices.outcome.add(outcomeOf(reply));
      reply.verdicts?.checks.forEach(([check]) => choices.check.add(check));
      for (const turn of reply.turns) {
        choices.status.add(turn.status);
        if (turn.finish) choices["finish-reason"].add(turn.finish);
        if (turn.error) choices["error-kind"].add(turn.error);
        turn.verdicts?.checks.forEach(([check]) => choices.check.add(check));
      }
    }
  }
  for (const name of FILTERS) {
    const control = document.getElementById(`filter-${name}`);
    const sorted = name === "flipped" || name === "target" ? [...choices[name]] : [...choices[name]].sort();
    for (const value of sorted) control.append(make("option", { value }, LABELS.get(value) ?? visible(value)));
    control.parentElement.hidden = sorted.length < (["tag", "check", "error-kind", "flipped"].includes(name) ? 1 : 2);
  }
}

/** Return the filters as they are set. */
function readFilters() {
  const wanted = { text: document.getElementById("filter-text").value.toLowerCase() };
  for (const name of FILTERS) wanted[name] = document.getElementById(`filter-${name}`).value;
  return wanted;
}

/** Return the columns of a dialogue that the filter by target leaves. */
function columnsOf(data, dialogue, wanted) {
  const replies = dialogue.replies ?? [];
  return wanted.target ? replies.filter((reply) => data.columns[reply.column].name === wanted.target) : replies;
}

/** Whether a dialogue matches every filter. */
function matches(data, dialogue, wanted) {
  if (wanted.tag && !dialogue.tags?.includes(wanted.tag)) return false;
  const flips = wanted.flipped ? flipsOf(dialogue, dialogue.replies ?? []) : null;
  return columnsOf(data, dialogue, wanted).some(
    (reply) =>
      (!wanted.outcome || outcomeOf(reply) === wanted.outcome) &&
      reply.turns.some((turn) => turnMatches(dialogue, reply, turn, wanted, flips)),
  );
}

function outcomeOf(reply) {
  if (reply.failed === true) return "failed";
  const checks = checksOf(reply);
  if (checks.length === 0) return "no checks";
  return checks.some(([, , passed]) => passed === null) ? "no verdict" : "passed";
}

function turnMatches(dialogue, reply, turn, wanted, flips) {
  if (wanted.status && turn.status !== wanted.status) return false;
  if (wanted["finish-reason"] && turn.finish !== wanted["finish-reason"]) return false;
  if (wanted["error-kind"] && turn.error !== wanted["error-kind"]) return false;
  if (flips !== null && flips.get(turn.turn) !== wanted.flipped && flips.get(null) !== wanted.flipped) return false;
  if (wanted.check) {
    const checks = [...(turn.verdicts?.checks ?? []), ...(reply.verdicts?.checks ?? [])];
    const named = checks.filter(([name]) => name === wanted.check);
    if (named.length === 0) return false;
    if (wanted.outcome === "failed" && named.every(([, passed]) => passed !== false)) return false;
  }
  if (!wanted.text) return true;
  const user = turn.user ?? dialogue.turns[turn.turn - 1]?.user ?? "";
  return `${dialogue.id}\0${user}\0${turn.reply ?? ""}`.toLowerCase().includes(wanted.text);
}

/** Return all checks of a column: [turn or null, name, passed]. */
function checksOf(reply) {
  const found = (reply.verdicts?.checks ?? []).map(([name, passed]) => [null, name, passed]);
  for (const turn of reply.turns) {
    for (const [name, passed] of turn.verdicts?.checks ?? []) found.push([turn.turn, name, passed]);
  }
  return found;
}

/**
 * Return how turns (null: the dialogue's own checks) flipped: in a comparison `worse` or `better`; in a report
 * `differs`, where a check passed in one column and failed in another.
 */
function flipsOf(dialogue, columns) {
  if (data.isComparison) return new Map(dialogue.flips ?? []);
  const seen = new Map();
  const flips = new Map();
  for (const reply of columns) {
    for (const [turn, name, passed] of checksOf(reply)) {
      if (passed === null) continue;
      const key = `${turn}\0${name}`;
      if (!seen.has(key)) seen.set(key, passed);
      else if (seen.get(key) !== passed) flips.set(turn, "differs");
    }
  }
  return flips;
}
