"use strict";
// Actions of the reader: find, sort, play, mark, export. If a server sends the page, more clips are added later.

const number = (text, otherwise) => (text === "" ? otherwise : Number(text));

// A clip has an answer to each task. If there is one task, the answer's element is the clip's own.

const clips = [];
const answers = [];
const clipOf = new Map();
const answerNamed = new Map(); // answers by identifier
const partsOf = new Map(); // by clip: its elements on its film's timeline
for (const part of document.querySelectorAll(".film [data-clip]")) {
  const { clip } = part.dataset;
  partsOf.set(clip, [...(partsOf.get(clip) ?? []), part]);
}

function adopt(article) {
  const { row, slot, video, start, seconds, film } = article.dataset;
  const parts = partsOf.get(article.id) ?? [];
  const own = { article, item: article.parentElement, place: clips.length, answers: [], parts };
  const clip = { ...own, row: +row, slot: +slot, video, start: +start, seconds: +seconds, film, stop: field(`t-${article.id}`) };
  const nodes = article.matches(".answer") ? [article] : article.querySelectorAll(".answer");
  for (const node of nodes) {
    const { task, kind, flags, words, tokens } = node.dataset;
    const answer = { node, clip, task, kind, flags: flags.split(" "), words: +words, tokens: +tokens };
    answer.text = searched(answer);
    clip.answers.push(answer);
    answers.push(answer);
    answerNamed.set(node.id, answer);
  }
  for (const name of ["words", "tokens"]) clip[name] = clip.answers.reduce((sum, answer) => sum + answer[name], 0);
  clips.push(clip);
  clipOf.set(article.id, clip);
  return clip;
}

function searched({ node, clip }) {
  const parts = [...clip.article.querySelectorAll("[data-text]")].filter((part) => [node, null].includes(part.closest(".answer")));
  return parts.map((part) => part.textContent).join("\n").toLowerCase();
}

function answerOf(node) {
  const [own, article] = [node.closest?.(".answer"), node.closest?.("article")];
  return answers.find((answer) => (own ? answer.node === own : answer.clip.article === article));
}

list.querySelectorAll("article").forEach(adopt);

// The browser stores marks by page and by caption, so that they survive a reload.

const KEY = `reelscribe-marks-${document.body.dataset.key}`;
const marks = new Map(Object.entries(stored(localStorage, KEY, {})));

function mark(answer, change) {
  const mark = { flag: false, note: "", ...marks.get(answer.node.id), ...change };
  if (mark.flag || mark.note) marks.set(answer.node.id, mark);
  else marks.delete(answer.node.id);
  store(localStorage, KEY, Object.fromEntries(marks));
  showMark(answer);
  showExport();
}

const flag = (answer) => mark(answer, { flag: !marks.get(answer.node.id)?.flag });

function showMark(answer) {
  const { flag = false, note = "" } = marks.get(answer.node.id) ?? {};
  const button = answer.node.querySelector(".flag");
  button.setAttribute("aria-pressed", String(flag));
  button.textContent = flag ? "Flagged" : "Flag";
  const area = answer.node.querySelector(".noting textarea");
  if (area.value !== note) area.value = note;
  if (note) showNote(answer);
  if (answer.clip.stop) showFlag(answer.clip);
}

function showFlag({ stop, answers }) {
  const flagged = answers.some(({ node }) => marks.get(node.id)?.flag);
  stop.classList.toggle("marked", flagged);
  stop.setAttribute("aria-label", flagged ? `flagged by you; ${stop.title}` : stop.title);
}

function showNote(answer) {
  answer.node.querySelector(".noting").hidden = false;
  answer.node.querySelector(".note").setAttribute("aria-expanded", "true");
}

const marked = () => answers.filter((answer) => marks.has(answer.node.id));

function showExport() {
  const count = marked().length;
  field("export").disabled = count === 0;
  field("export").textContent = count ? `Export ${count} mark${count === 1 ? "" : "s"}` : "Export marks";
}

function exportMarks() {
  const rows = marked().map(({ node, clip, task }) => {
    const { flag, note } = marks.get(node.id);
    return { row: clip.row, video: clip.video || null, task, flag, note };
  });
  save("marks.jsonl", rows);
}

// Finding and sorting

function fits(answer) {
  const wanted = field("search").value.trim().toLowerCase();
  if (wanted && !answer.text.includes(wanted)) return false;
  const least = number(field("least").value, 0);
  const most = number(field("most").value, Infinity);
  const limited = least > 0 || most < Infinity;
  if (limited && (answer.kind || answer.words < least || answer.words > most)) return false;
  const [what, name] = field("show").value.split(":");
  if (what === "caption") return !answer.kind;
  if (what === "failure") return answer.kind !== "";
  if (what === "flag") return answer.flags.includes(name);
  if (what === "kind") return answer.kind === name;
  if (what === "marked") return marks.has(answer.node.id);
  return true;
}

const FILTERS = ["search", "show", "least", "most"];
let shown = [];
let inAll = Number(document.body.dataset.clips); // number of clips, including those that are still to be loaded

function find() {
  const name = field("sort").value.replace("-", "");
  const sign = field("sort").value.startsWith("-") ? -1 : 1;
  const compare = (a, b) => (name === "video" ? a.video.localeCompare(b.video) : sign * (a[name] - b[name]));
  shown = clips.filter((clip) => clip.answers.some(fits)).sort((a, b) => compare(a, b) || a.place - b.place);
  layOut(shown.map((clip) => clip.item));
  showFound();
  const there = new Set(shown);
  for (const clip of clips) for (const part of clip.parts) part.classList.toggle("out", !there.has(clip));
}

function showFound() {
  const all = countOf(inAll, "clip");
  field("count").textContent = shown.length === clips.length ? all : `${shown.length.toLocaleString("en")} of ${all}`;
  if (clips.length < inAll) field("count").textContent += `, ${clips.length.toLocaleString("en")} looked at so far`;
  const wanted = field("search").value.trim();
  field("nothing").hidden = shown.length > 0 || !isFiltered();
  const those = ["show", "least", "most"].some((id) => field(id).value) ? "No clip of those chosen" : "No clip";
  field("what").textContent = wanted ? `${those} has “${wanted}”.` : "No clip is like that.";
}

const isFiltered = () => FILTERS.some((id) => field(id).value);

function clear() {
  for (const id of FILTERS) field(id).value = "";
  find();
}

// Adds clips that are loaded after the page, given their HTML.
function receive(pieces) {
  for (const html of pieces) {
    const holder = document.createElement("ol");
    holder.innerHTML = html; // from our own server, which escapes all data
    const clip = adopt(holder.querySelector("article"));
    clip.answers.forEach(correctable);
    wire(clip);
    if (!clip.answers.some(fits)) continue;
    shown.push(clip);
    items.push(clip.item);
  }
  inAll = Math.max(inAll, clips.length);
  fill(PIECE);
  showFound();
  showExport();
}

function follow(event) {
  const answer = answerNamed.get(event.target.getAttribute("href")?.slice(1));
  if (!answer) return;
  event.preventDefault();
  visit(answer);
}

function visit(answer) {
  if (!shown.includes(answer.clip)) clear();
  focus(answer);
}

// Playing

const lastPlayed = new Map(); // by film: the clip that has its player, as browsers allow a page dozens of players, not hundreds

const player = (clip) =>
  playerOf(clip.article, (video) => {
    if (clip.film) takePlayer(clip);
    addSubtitles(video, clip);
  });

function takePlayer(clip) {
  const place = lastPlayed.get(clip.film)?.article.querySelector(".player");
  if (place) {
    place.querySelector("video")?.pause();
    place.replaceChildren();
    place.hidden = true;
  }
  lastPlayed.set(clip.film, clip);
}

// Shows events as subtitles: those of the first answer that has some, until the reader chooses others.

const MARKUP = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };

function addSubtitles(video, clip) {
  const timed = clip.answers.filter(({ node }) => node.querySelector(".events [data-start]"));
  for (const answer of timed) {
    const track = video.addTextTrack("subtitles", answer.task);
    track.mode = answer === timed[0] ? "showing" : "hidden";
    for (const event of answer.node.querySelectorAll(".events [data-start]")) {
      const text = event.querySelector("[data-text]").textContent.replace(/[&<>]/g, (sign) => MARKUP[sign]);
      // Seeking to a cue's exact end still shows it in Chromium, where the next cue begins. So end it 1 ms earlier.
      track.addCue(new VTTCue(Number(event.dataset.start), Number(event.dataset.end) - 0.001, text));
    }
  }
}

const play = (clip) => toggle(player(clip));

function seek(clip, seconds) {
  const video = player(clip);
  if (video) video.currentTime = seconds;
}

// Timelines: Tab reaches one stop of each, and arrow keys reach the others from there.

function showCurrent(stop) {
  const film = stop.closest(".film");
  for (const other of film.querySelectorAll("a.stop[tabindex='0'], a.stop[aria-current]")) {
    other.tabIndex = -1;
    other.removeAttribute("aria-current");
  }
  stop.tabIndex = 0;
}

function travel(event) {
  const stop = event.target.closest("a.stop");
  if (!stop || event.ctrlKey || event.metaKey || event.altKey) return;
  const stops = [...stop.closest(".film").querySelectorAll("a.stop")];
  const at = stops.indexOf(stop);
  const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: stops.length - 1 };
  const next = stops[places[event.key]] ?? beside(stop, stops, { ArrowUp: -1, ArrowDown: 1 }[event.key]);
  if (!next) return;
  event.preventDefault();
  showCurrent(next);
  next.focus();
}

// The nearest stop of the next row above (-1) or below (1).
function beside(stop, stops, step) {
  const from = stop.getBoundingClientRect();
  const places = stops.map((other) => ({ other, box: other.getBoundingClientRect() }));
  const there = places.filter(({ box }) => step * (box.top - from.top) > 1);
  const top = Math.min(...there.map(({ box }) => Math.abs(box.top - from.top)));
  const away = ({ box }) => Math.abs(box.left + box.width / 2 - from.left - from.width / 2);
  return there.filter(({ box }) => Math.abs(box.top - from.top) < top + 1).sort((a, b) => away(a) - away(b))[0]?.other;
}

function stopAt(event) {
  const part = event.target.closest("[data-clip]");
  if (!part) return follow(event);
  event.preventDefault();
  const clip = clipOf.get(part.dataset.clip);
  if (!clip) return; // it is not loaded yet
  seek(clip, Number(part.dataset.seconds ?? clip.start));
  visit(clip.answers[0]);
}

function goBack(clip, event) {
  event.preventDefault();
  showPart(clip.stop);
  clip.stop.focus();
  clip.stop.scrollIntoView({ block: "center" });
}

for (const film of document.querySelectorAll(".film")) {
  for (const [place, stop] of film.querySelectorAll("a.stop").entries()) stop.tabIndex = place ? -1 : 0;
  film.addEventListener("keydown", travel);
  film.addEventListener("click", stopAt);
  film.addEventListener("focusin", ({ target }) => target.matches("a.stop") && showCurrent(target));
}
list.addEventListener("focusin", (event) => {
  const stop = answerOf(event.target)?.clip.stop;
  if (!stop) return;
  showCurrent(stop);
  stop.setAttribute("aria-current", "true");
});

// Keyboard

const current = () => answerOf(document.activeElement);

function go(by) {
  const next = step(shown.flatMap((clip) => clip.answers), current(), by);
  if (next) focus(next);
}

function focus(answer) {
  const { node, clip } = answer;
  goTo(clip, node);
  (answer === clip.answers[0] ? clip.article : node).scrollIntoView({ block: "start" }); // for the first answer, with the frames of the clip
}

function note(answer) {
  showNote(answer);
  answer.node.querySelector(".noting textarea").focus();
}

Object.assign(deeds, { j: () => go(1), k: () => go(-1) });
Object.assign(deedsOf, { f: flag, n: note, " ": (answer) => play(answer.clip) });

document.addEventListener("keydown", (event) => {
  const answer = current();
  if (event.key === "Escape" && answer && event.target.matches("textarea")) focus(answer);
});

// Clicks on a clip and its answers.

function wire(clip) {
  const within = (selector) => clip.article.querySelector(selector);
  within(".play")?.addEventListener("click", () => play(clip));
  within(".back")?.addEventListener("click", (event) => goBack(clip, event));
  if (within(".play") && within(".strip")) {
    within(".strip").classList.add("seekable");
    within(".strip").addEventListener("click", (event) => {
      if (event.target.dataset.seconds) seek(clip, Number(event.target.dataset.seconds));
    });
  }
  clip.answers.forEach(wireAnswer);
  for (const actions of clip.article.querySelectorAll(".actions")) actions.hidden = false;
}

function makeSeekable(clip, event) {
  const time = event.querySelector(".time");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "time";
  button.textContent = time.textContent;
  time.replaceWith(button);
  event.classList.add("seekable");
  event.addEventListener("click", () => seek(clip, Number(event.dataset.start)));
}

function wireAnswer(answer) {
  if (answer.clip.article.querySelector(".play")) {
    for (const event of answer.node.querySelectorAll(".events [data-start]")) makeSeekable(answer.clip, event);
  }
  const within = (selector) => answer.node.querySelector(selector);
  within(".flag").addEventListener("click", () => flag(answer));
  within(".note").addEventListener("click", () => note(answer));
  within(".noting textarea").addEventListener("input", (event) => mark(answer, { note: event.target.value }));
  showMark(answer);
}

clips.forEach(wire);
document.querySelector(".toolbar").hidden = false;
document.querySelector(".toolbar").addEventListener("submit", (event) => event.preventDefault());
for (const id of [...FILTERS, "sort"]) {
  field(id).addEventListener("input", () => {
    find();
    showFirst();
  });
}
field("clear").addEventListener("click", () => {
  clear();
  field("search").focus();
});
list.addEventListener("click", follow);
field("export").addEventListener("click", exportMarks);
listenToKeys(current);
showExport();
find(); // apply what the browser restores into the fields on a reload
