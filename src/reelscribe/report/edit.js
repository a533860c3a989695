"use strict";
// Edits by the reader: captions, verdicts, notes. The server keeps them in a log, and the page shows the state of the log.

const POLL_MILLISECONDS = 2000;
const NOTHING = { version: 0, text: null, verdict: "", note: "", outdated: false };
const states = new Map(); // by the answer's identifier: its last state from the server
const DRAFTS = `reelscribe-drafts-${document.body.dataset.key}`;
const DONE = `reelscribe-done-${document.body.dataset.key}`;
const drafts = stored(localStorage, DRAFTS, {}); // texts that are being written, in case the browser closes
const done = stored(sessionStorage, DONE, []); // lines of the log that this page wrote, to undo
let line = 0; // last line of the log that the page knows

const stateOf = (answer) => states.get(answer.node.id) ?? NOTHING;
const TOLD_MILLISECONDS = 8000;
let forgetting;

function tell(text) {
  field("done").textContent = text;
  clearTimeout(forgetting);
  forgetting = setTimeout(() => field("done").replaceChildren(), TOLD_MILLISECONDS);
}

function button(text, act) {
  const node = make("button", text, { type: "button" });
  node.addEventListener("click", act);
  return node;
}

// The server

async function ask(path, body) {
  let told = {};
  let status = 0;
  try {
    const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(path, body && sent);
    status = response.status;
    told = await response.json();
  } catch {
    told.problem ??= `The server does not answer. What you write is kept in this browser; start reelscribe view again with --port ${location.port}.`;
  }
  take(told.states ?? {});
  return { ...told, status };
}

function take(found) {
  for (const [id, state] of Object.entries(found)) {
    if ((states.get(id)?.version ?? -1) > state.version) continue; // an older response arrived late
    states.set(id, state);
    const answer = answerNamed.get(id);
    if (answer) showState(answer);
  }
}

async function change(answer, what, said) {
  const told = await ask("change", { id: answer.node.id, version: stateOf(answer).version, ...what });
  if (told.status === 200) noteDone(told.done, said);
  else tell(sentence(told.problem));
  return told;
}

const sentence = (text = "That did not work.") => text[0].toUpperCase() + text.slice(1);

function noteDone(number, said) {
  done.push(number);
  store(sessionStorage, DONE, done);
  field("undo").disabled = false;
  tell(said);
}

async function undo() {
  const number = done.pop();
  if (!number) return tell("There is nothing to undo.");
  store(sessionStorage, DONE, done);
  field("undo").disabled = !done.length;
  const told = await ask("undo", { line: number });
  tell(told.status === 200 ? "Undone." : sentence(told.problem));
}

async function followLog() {
  if (document.hidden) return;
  const told = await ask(`states?since=${line}`);
  if (told.status === 200) line = told.line;
  else tell(sentence(told.problem));
}

// Showing states

const captionsOf = (answer) => [...answer.node.querySelectorAll(".caption")];
const saidBy = new Map(); // by answer: the model's texts
const textOf = (answer) => (corrects(stateOf(answer)) ? stateOf(answer).text : saidBy.get(answer)[0] ?? "");
const corrects = ({ text, outdated }) => text !== null && !outdated;

function showState(answer) {
  const state = stateOf(answer);
  const { node } = answer;
  for (const [place, caption] of captionsOf(answer).entries()) {
    caption.textContent = place || !corrects(state) ? saidBy.get(answer)[place] : state.text;
  }
  showEvents(answer, state);
  showWhat(answer);
  const verdict = state.outdated ? "" : state.verdict;
  const found = { edited: corrects(state), "out of date": state.outdated, approved: verdict === "approved", rejected: verdict === "rejected" };
  for (const badge of node.querySelectorAll(".by-people")) badge.remove();
  const names = Object.keys(found).filter((name) => found[name]);
  const shownAs = (name) => (name === "edited" && answer.kind ? "written by hand" : name);
  for (const name of names) node.querySelector(".badges").append(make("span", shownAs(name), { class: `badge by-people ${name}` }));
  const own = [...Object.keys(found).map((name) => name.replaceAll(" ", "_")), "undecided"];
  answer.flags = answer.flags.filter((flag) => !own.includes(flag)).concat(names.map((name) => name.replaceAll(" ", "_")));
  if (!verdict && (!answer.kind || found.edited)) answer.flags.push("undecided");
  node.querySelector(".approve").setAttribute("aria-pressed", String(found.approved));
  node.querySelector(".reject").setAttribute("aria-pressed", String(found.rejected));
  showSaid(answer, state);
  const isWriting = document.activeElement === node.querySelector(".noting textarea");
  if (state.version && !isWriting && (state.note || marks.get(node.id)?.note)) mark(answer, { note: state.note });
  answer.words = state.words;
  const count = node.querySelector(".facts .words");
  if (count) count.textContent = `${state.words} word${state.words === 1 ? "" : "s"}`;
  answer.text = searched(answer);
}

// Shows one of three: the text, the list of its events, or the field to edit it in.
function showWhat(answer) {
  const [isEdited, isOpen] = [corrects(stateOf(answer)), answer.node.querySelector(".editor") !== null];
  const list = answer.node.querySelector(".events");
  for (const [place, caption] of captionsOf(answer).entries()) {
    const isUnseen = caption.matches(".unseen") && (list !== null || !isEdited);
    caption.hidden = place ? isEdited : isOpen || isUnseen;
  }
  if (list) list.hidden = isOpen;
}

const eventsBy = new Map(); // by answer: the list items of the model's events

function showEvents(answer, state) {
  const list = answer.node.querySelector(".events");
  if (!list) return;
  const items = corrects(state) && state.events ? state.events.map((event) => eventItem(answer, event)) : eventsBy.get(answer);
  list.replaceChildren(...items);
}

function eventItem(answer, { start, end, shown_until: until, text }) {
  const item = make("li", "", { "data-start": start, "data-end": until });
  item.append(make("span", `${start.toFixed(2)}\u2013${end.toFixed(2)} s`, { class: "time" }), " ", make("span", text, { "data-text": "" }));
  if (answer.clip.article.querySelector(".play")) makeSeekable(answer.clip, item);
  return item;
}

// The model's text, shown if an edit replaced it.
function showSaid(answer, state) {
  const { node } = answer;
  node.querySelector(".said")?.remove();
  if (state.text === null) return;
  const place = node.querySelector(".facts") ?? node.querySelector(".noting");
  const said = make("div", "", { class: "said" });
  if (state.outdated) {
    said.append(
      make("p", "What is kept here is not what it was when it was corrected to:", { class: "quiet" }),
      make("p", state.text, { class: "before" }),
      button("Take that", () => change(answer, { text: state.text }, "Taken.")),
    );
  } else if (answer.kind) {
    said.append(button("Take it away", () => change(answer, { text: null }, "Taken away.")));
  } else {
    const details = make("details", "");
    details.append(
      make("summary", "What the model said"),
      make("p", saidBy.get(answer)[0], { class: "before", "data-text": "" }),
      button("Put it back", () => putBack(answer)),
    );
    said.append(details);
  }
  place.before(said);
}

const putBack = (answer) => change(answer, { text: null }, "The model's caption is back.");

// Editing in place

function edit(answer, draft) {
  const caption = captionsOf(answer)[0];
  if (!caption || !answer.node.querySelector(".edit")) return;
  if (answer.node.querySelector(".editor")) return answer.node.querySelector(".editor textarea").focus();
  const editor = make("div", "", { class: "editor" });
  const area = make("textarea", "", { "aria-label": `Caption of ${answer.clip.video}`, rows: "4" });
  const problem = make("p", "", { class: "quiet", role: "status" });
  area.value = draft ?? textOf(answer);
  const before = textOf(answer);
  const version = stateOf(answer).version;
  const close = () => {
    delete drafts[answer.node.id];
    store(localStorage, DRAFTS, drafts);
    editor.remove();
    showWhat(answer);
  };
  const leave = () => {
    close();
    focus(answer);
  };
  const save = async (based = version) => {
    if (area.value.trim() === textOf(answer)) return leave();
    const told = await ask("change", { id: answer.node.id, version: based, text: area.value });
    if (told.status === 200) {
      const inside = editor.contains(document.activeElement);
      close();
      if (inside) focus(answer);
      noteDone(told.done, "Saved.");
    } else if (told.status === 409) {
      problem.replaceChildren(
        make("strong", "Somebody else changed it meanwhile, to: "), make("q", textOf(answer)), " ",
        button("Keep theirs", leave), " ", button("Put mine there", () => save(stateOf(answer).version)),
      );
    } else problem.textContent = sentence(told.problem);
  };
  let warned = false;
  area.addEventListener("input", () => {
    drafts[answer.node.id] = area.value;
    store(localStorage, DRAFTS, drafts);
    warned = false;
  });
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    if (event.key !== "Escape") return;
    if (warned || area.value === before) return leave();
    warned = true;
    problem.textContent = "Esc once more drops what you wrote; Ctrl Enter saves it.";
  });
  const actions = make("p", "", { class: "actions" });
  actions.append(button("Save", () => save()), button("Cancel", leave));
  editor.append(area, problem, actions);
  caption.before(editor);
  showWhat(answer);
  if (answer.node.querySelector(".events") && answer.clip.start) problem.textContent = `Times count from the start of the clip, ${answer.clip.start} s into its file.`;
  if (draft === undefined) area.focus();
  else problem.textContent = "You were writing this when the page was closed.";
}

// Verdicts, candidates and notes

async function judge(answer, verdict, goOn) {
  const { verdict: present, outdated } = stateOf(answer);
  const taken = present === verdict && !outdated;
  const told = await change(answer, { verdict: taken ? "" : verdict }, taken ? "Taken back." : sentence(`${verdict}.`));
  if (goOn && told.status === 200 && !taken && current() === answer) go(1);
}

async function keepNote(answer, note) {
  const { note: before, version } = stateOf(answer);
  const told = await ask("change", { id: answer.node.id, version, note });
  if (told.status === 200) return noteDone(told.done, "Noted.");
  if (told.status !== 409) return tell(sentence(told.problem));
  const theirs = stateOf(answer).note; // somebody else changed the caption or its note
  return change(answer, { note: theirs === before ? note : `${theirs}\n${note}` }, "Noted, beside what somebody else did.");
}

function takeCandidate(answer, take) {
  if (take) change(answer, { candidate: Number(take.dataset.place) }, "Taken.");
}

function correctable(answer) {
  saidBy.set(answer, captionsOf(answer).map((node) => node.textContent));
  eventsBy.set(answer, [...(answer.node.querySelector(".events")?.children ?? [])]);
  const within = (selector) => answer.node.querySelector(selector);
  within(".edit")?.addEventListener("click", () => edit(answer));
  within(".approve").addEventListener("click", () => judge(answer, "approved"));
  within(".reject").addEventListener("click", () => judge(answer, "rejected"));
  within(".noting textarea").addEventListener("change", ({ target }) => keepNote(answer, target.value));
  for (const take of answer.node.querySelectorAll(".take")) take.addEventListener("click", () => takeCandidate(answer, take));
  if (!answer.kind) answer.flags.push("undecided");
  if (states.has(answer.node.id)) showState(answer);
  if ("ready" in document.body.dataset) takeUp(answer);
}

// Restores the text that was being written when the page was closed.
function takeUp(answer) {
  if (answer.node.id in drafts) edit(answer, drafts[answer.node.id]);
}

answers.forEach(correctable);

// Find and replace

let previewed = null;

function replacement() {
  const task = field("find-task")?.value ?? answers[0]?.task;
  return { find: field("find-text").value, with: field("put-text").value, task, case: field("find-case").checked, words: field("find-words").checked };
}

function forgetPreview() {
  previewed = null;
  field("replace-all").disabled = true;
  field("replace-all").textContent = "Replace";
  field("preview").replaceChildren();
}

const captionCount = (count) => countOf(count, "caption");

async function preview(event) {
  event.preventDefault();
  forgetPreview();
  const asked = replacement();
  const told = await ask("replace", asked);
  if (told.status !== 200) return field("preview").append(make("p", sentence(told.problem)));
  field("preview").append(make("p", told.count ? `${captionCount(told.count)} would change:` : "No caption would change."));
  for (const { video, pieces } of told.samples) {
    const sample = make("p", "", { class: "before" });
    const kinds = { same: "span", new: "ins", gone: "del" };
    sample.append(make("span", `${video}: `, { class: "quiet" }), ...pieces.map(([kind, text]) => make(kinds[kind], text)));
    field("preview").append(sample);
  }
  if (told.count > told.samples.length) field("preview").append(make("p", `and ${told.count - told.samples.length} more`, { class: "quiet" }));
  for (const [why, count] of Object.entries(told.left_out)) field("preview").append(make("p", `Left as it is: ${captionCount(count)}: ${why}`, { class: "quiet" }));
  if (!told.count) return;
  previewed = { ...asked, count: told.count };
  field("replace-all").disabled = false;
  field("replace-all").textContent = `Replace in ${captionCount(told.count)}`;
}

async function replaceAll() {
  const told = await ask("replace", previewed);
  forgetPreview();
  if (told.status !== 200) return field("preview").append(make("p", sentence(told.problem)));
  field("replacing").close();
  noteDone(told.done, "Replaced. Undo takes all of it back.");
}

field("replacing").addEventListener("input", forgetPreview);
field("replacing").querySelector("form").addEventListener("submit", preview);
field("replace-all").addEventListener("click", replaceAll);
field("replace-close").addEventListener("click", () => field("replacing").close());

// Keys and buttons of the toolbar

Object.assign(deedsOf, {
  e: (answer) => edit(answer),
  a: (answer) => judge(answer, "approved", true),
  r: (answer) => judge(answer, "rejected", true),
  0: (answer) => stateOf(answer).text !== null && putBack(answer),
});
for (let place = 1; place <= 9; place++) {
  deedsOf[place] = (answer) => takeCandidate(answer, answer.node.querySelectorAll(".take")[place - 1]);
}
Object.assign(deeds, {
  u: undo,
  h: () => field("replacing").showModal(),
  "?": () => field("help").showModal(),
});
field("undo").disabled = !done.length;
field("undo").addEventListener("click", undo);
field("replace").addEventListener("click", () => field("replacing").showModal());
field("help-button").addEventListener("click", () => field("help").showModal());

followLog().then(() => {
  answers.forEach(takeUp);
  document.body.dataset.ready = "";
});
setInterval(followLog, POLL_MILLISECONDS);

// If the server cannot make a frame, its response says why, and replaces all frames of the clip.
list.addEventListener("error", async ({ target }) => {
  const frames = target.closest?.(".frames");
  if (!frames || "gone" in frames.dataset) return;
  frames.dataset.gone = "";
  const why = await fetch(target.src).then((response) => response.text(), () => "The frames cannot be shown.");
  frames.replaceWith(make("p", why, { class: "quiet" }));
}, true);

// Loads the clips that are not in the page itself, some at a time.
async function receiveRest() {
  for (let from = clips.length; from < inAll; ) {
    const told = await ask(`clips?from=${from}`);
    if (told.status === 200) {
      receive(told.clips);
      from += told.clips.length;
    } else {
      tell(sentence(told.problem));
      await new Promise((done) => setTimeout(done, POLL_MILLISECONDS));
    }
  }
  if (field("sort").value !== "place") find(); // loaded clips were appended at the end: sort again
}
receiveRest();
