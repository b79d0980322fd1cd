// One dialogue: its script, and below each turn the replies side by side. Order and words are those of `convbatch show`.

/** Return the address of a dialogue, or of one of its turns. */
function addressOf(id, turn) {
  return `#${encodeURIComponent(id)}${turn === undefined ? "" : `/${turn}`}`;
}

/** Return the number of the last turn of a dialogue's script or replies. */
function lastTurn(dialogue) {
  return Math.max(dialogue.turns.length, ...(dialogue.replies ?? []).flatMap((reply) => reply.turns.map((turn) => turn.turn)));
}

/** Show a dialogue in `article`. */
function showDialogue(article, data, dialogue, wanted, marksWords) {
  const columns = columnsOf(data, dialogue, wanted);
  const flips = flipsOf(dialogue, columns);
  const parts = [titleOf(data, dialogue)];
  if (dialogue.system !== undefined) parts.push(labelled("system", dialogue.system));
  const last = Math.max(dialogue.turns.length, ...columns.flatMap((reply) => reply.turns.map((turn) => turn.turn)));
  for (let number = 1; number <= last; number++) parts.push(turnOf(data, dialogue, columns, number, flips, marksWords));
  if (columns.some((reply) => reply.verdicts)) {
    const cells = columns.map((reply) => make("div", { class: "reply" }, nameOf(data, reply), ...verdictsOf(reply.verdicts)));
    const heading = make("h4", {}, "Whole dialogue", flipBadge(flips.get(null)));
    parts.push(make("section", { class: "turn" }, heading, make("div", { class: "replies" }, ...cells)));
  }
  article.replaceChildren(...parts);
  article.setAttribute("aria-label", `Transcript of ${visible(dialogue.id)}`);
}

function titleOf(data, dialogue) {
  const copyJson = make("button", { type: "button" }, "Copy as JSON");
  copyJson.addEventListener("click", () => copied(copyJson, JSON.stringify(plain(dialogue), null, 2)));
  const heading = make("h3", { dir: "auto" }, visible(dialogue.id));
  const buttons = make("p", { class: "buttons" }, copyJson);
  if (dialogue.line !== undefined) {
    const copyLine = make("button", { type: "button" }, "Copy as dataset line");
    const line = withMedia(data, dialogue.line);
    copyLine.addEventListener("click", () => copied(copyLine, line));
    buttons.append(copyLine);
    if (MEDIUM.test(line)) buttons.append(make("span", { class: "facts" }, "The line names files of the run's folder “media”."));
  }
  buttons.append(make("a", { href: addressOf(dialogue.id) }, "Link to this dialogue"));
  const tags = (dialogue.tags ?? []).map((tag) => make("span", { class: "tag" }, visible(tag)));
  return make("header", {}, heading, ...tags, buttons);
}

const MEDIUM = /"(?:image|audio|video|document)":"(media\/[^"\\]+)"/; // as JSON, so not within a text

/** Return the line of a dataset with the media that the page has in it, so that it needs no files. */
function withMedia(data, line) {
  return line.replace(new RegExp(MEDIUM, "g"), (whole, path) => {
    const medium = Object.hasOwn(data.media, path) ? data.media[path] : {};
    return medium.data === undefined ? whole : `"data":"${medium.data}","mime_type":"${medium.type}"`;
  });
}

async function copied(button, text) {
  await copyText(text);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

/** Return a dialogue with its replies as it is copied. */
function plain(dialogue) {
  const { line, replies, ...script } = dialogue;
  return {
    dialogue: line === undefined ? script : JSON.parse(line),
    replies: (replies ?? []).map(({ column, failed, ...reply }) => reply),
  };
}

function turnOf(data, dialogue, columns, number, flips, marksWords) {
  const script = dialogue.turns[number - 1];
  const link = make("a", { href: addressOf(dialogue.id, number) }, `Turn ${number}`);
  const heading = make("h4", {}, link, flipBadge(flips.get(number)));
  const section = make("section", { class: "turn", "data-turn": number, tabindex: "-1" }, heading);
  if (script !== undefined) {
    section.append(labelled("user", script.user ?? ""), ...mediaOf(data, script.media));
    for (const [label, text] of script.script ?? []) section.append(labelled(label, text));
  }
  const here = columns.filter((reply) => reply.turns.some((turn) => turn.turn === number));
  const texts = here.map((reply) => turnIn(reply, number).reply);
  const cells = here.map((reply, at) =>
    replyOf(data, dialogue, reply, turnIn(reply, number), marksWords ? comparedWith(texts, at) : undefined),
  );
  if (cells.length > 0) section.append(make("div", { class: "replies" }, ...cells));
  return section;
}

/** Return the text with which one of several is compared: the first one, and for that the first other that differs. */
function comparedWith(texts, at) {
  const first = texts.findIndex((text) => text);
  return at === first ? texts.find((text) => text && text !== texts[at]) : texts[first];
}

function flipBadge(change) {
  if (change === undefined) return "";
  const kind = { worse: "harmful", better: "improved" }[change] ?? "differs";
  return make("span", { class: `badge ${kind}` }, change);
}

function turnIn(reply, number) {
  return reply.turns.find((turn) => turn.turn === number);
}

function labelled(label, text) {
  return make("div", { class: `line ${label}` }, make("span", { class: "label" }, label), textOf(text));
}

function textOf(text) {
  return make("div", { class: "text", dir: "auto" }, visible(text));
}

function nameOf(data, reply) {
  const role = data.columns[reply.column].role;
  return make("h5", {}, role ? make("span", { class: "role" }, role) : "", role ? " " : "", make("bdi", {}, visible(reply.name)));
}

function replyOf(data, dialogue, reply, turn, compared) {
  const cell = make("div", { class: "reply", "data-status": turn.status }, nameOf(data, reply));
  if (turn.user !== undefined) cell.append(labelled(`turn ${turn.turn} of this run`, turn.user));
  if (turn.thought !== undefined) cell.append(folded(`thought: ${turn.thought.length.toLocaleString("en")} characters`, turn.thought));
  for (const call of turn.calls ?? []) cell.append(folded(call.length > 80 ? `${call.slice(0, 79)}…` : call, call));
  if (turn.reply !== undefined) cell.append(comparedText(turn.reply, compared));
  cell.append(...mediaOf(data, turn.media));
  cell.append(make("p", { class: `facts ${turn.status}` }, visible((turn.facts ?? []).join(" · "))), ...verdictsOf(turn.verdicts));
  if (turn.status !== "skipped") cell.append(seenBy(data, dialogue, reply, turn)); // nothing was sent
  return cell;
}

function comparedText(reply, compared) {
  if (compared === undefined || compared === reply) return textOf(reply);
  const box = make("div", { class: "text", dir: "auto" });
  for (const [word, differs] of joinedWords(differingWords(reply, compared))) {
    box.append(differs ? make("mark", {}, visible(word)) : visible(word));
  }
  return box;
}

/** Join neighbours that differ, or do not: fewer elements, and a screen reader reads phrases. */
function joinedWords(words) {
  const joined = [];
  for (const [word, differs] of words) {
    if (joined.length > 0 && joined.at(-1)[1] === differs) joined.at(-1)[0] += word;
    else joined.push([word, differs]);
  }
  return joined;
}

function folded(title, text) {
  return make("details", {}, make("summary", {}, visible(title)), textOf(text));
}

function verdictsOf(verdicts) {
  const classes = new Map([[true, "passed"], [false, "failed"], [null, "unknown"]]);
  return (verdicts?.lines ?? []).map(([passed, line]) => make("p", { class: `verdict ${classes.get(passed)}`, dir: "auto" }, visible(line)));
}

function mediaOf(data, paths) {
  return (paths ?? []).map((path) => {
    const medium = mediumOf(data, path);
    if (medium?.url === undefined) return make("p", { class: "facts" }, visible(`${path} ${medium?.left ?? ""}`));
    if (medium.type.startsWith("image/")) return make("img", { src: medium.url, alt: `picture ${path}` });
    return make(medium.type.startsWith("audio/") ? "audio" : "video", { src: medium.url, controls: true, "aria-label": path });
  });
}

/** Return a fold with the messages before this reply; they are put in when it is opened. */
function seenBy(data, dialogue, reply, turn) {
  const fold = make("details", { class: "seen" }, make("summary", {}, "what the model saw"));
  fold.addEventListener("toggle", () => {
    if (!fold.open || fold.childElementCount > 1) return;
    if (dialogue.system !== undefined) fold.append(labelled("system", dialogue.system));
    for (let number = 1; number <= turn.turn; number++) {
      const script = dialogue.turns[number - 1];
      const past = turnIn(reply, number);
      fold.append(labelled("user", past?.user ?? script?.user ?? ""), ...mediaOf(data, script?.media));
      fold.append(...behindUser(data, reply, script, past, number === turn.turn));
    }
  });
  return fold;
}

/** Return what the model saw behind the user of a turn: real or scripted calls with results, and the reply to it. */
function behindUser(data, reply, script, past, isLast) {
  const { history } = data.columns[reply.column];
  if (past !== undefined && (isLast || (history === "live" && script?.ask !== false))) {
    const recorded = history === "last" && script?.assistant === undefined ? scriptOf(script) : [];
    const calls = callsOf(data, past, isLast);
    return [...recorded, ...calls, ...(isLast || past.reply === undefined ? [] : [labelled("assistant", past.reply)])];
  }
  return script?.assistant === undefined ? [] : scriptOf(script);
}

function scriptOf(script) {
  return (script?.script ?? []).map(([, text]) => labelled("assistant", text));
}

/** Return the calls of a turn, each with its result; with `isAnswered` only those that got one. */
function callsOf(data, turn, isAnswered) {
  return (turn.calls ?? []).flatMap((call, at) => {
    const result = turn.results?.[at];
    if (!result) return isAnswered ? [] : [labelled("assistant", call)];
    return [labelled("assistant", call), labelled("tool", result[0]), ...mediaOf(data, result[1])];
  });
}
