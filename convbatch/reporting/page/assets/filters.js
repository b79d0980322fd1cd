// Filters: which dialogues the list has. Values of different filters must all match the same turn, as in
// `convbatch show`.

const FILTERS = ["outcome", "status", "finish-reason", "error-kind", "check", "tag", "target"];
const OUTCOMES = ["failed", "passed", "differs between columns"];

/** Offer in each filter what the data has; a filter without a choice is hidden. */
function offerChoices(data) {
  const choices = Object.fromEntries(FILTERS.map((name) => [name, new Set()]));
  OUTCOMES.forEach((outcome) => choices.outcome.add(outcome));
  data.columns.forEach((column) => choices.target.add(column.name));
  for (const dialogue of data.dialogues) {
    dialogue.tags?.forEach((tag) => choices.tag.add(tag));
    for (const reply of dialogue.replies ?? []) {
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
    const sorted = name === "outcome" || name === "target" ? [...choices[name]] : [...choices[name]].sort();
    for (const value of sorted) {
      const option = make("option", { value }, visible(value));
      control.append(option);
    }
    control.parentElement.hidden = sorted.length < (name === "tag" || name === "check" || name === "error-kind" ? 1 : 2);
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
  const columns = columnsOf(data, dialogue, wanted);
  if (columns.length === 0) return false;
  if (wanted.outcome === "differs between columns" && flippedTurns(dialogue, dialogue.replies ?? []).size === 0) return false;
  return columns.some(
    (reply) => hasOutcome(reply, wanted.outcome) && reply.turns.some((turn) => turnMatches(dialogue, reply, turn, wanted)),
  );
}

function hasOutcome(reply, outcome) {
  if (outcome === "failed") return reply.failed === true;
  if (outcome === "passed") return reply.failed !== true && checksOf(reply).length > 0;
  return true;
}

function turnMatches(dialogue, reply, turn, wanted) {
  if (wanted.status && turn.status !== wanted.status) return false;
  if (wanted["finish-reason"] && turn.finish !== wanted["finish-reason"]) return false;
  if (wanted["error-kind"] && turn.error !== wanted["error-kind"]) return false;
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

/** Return the turns (null: the dialogue) with a check that passed in one column and failed in another. */
function flippedTurns(dialogue, columns) {
  const seen = new Map();
  const flipped = new Set();
  for (const reply of columns) {
    checksOf(reply).forEach(([turn, name, passed]) => {
      if (passed !== true && passed !== false) return;
      const key = `${turn}\0${name}`;
      if (!seen.has(key)) seen.set(key, passed);
      else if (seen.get(key) !== passed) flipped.add(turn);
    });
  }
  return flipped;
}
