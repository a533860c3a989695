"use strict";
// What a reader does to the page: find, sort, play, mark, export. All data are in the page already.

const list = document.getElementById("clips");
const field = (id) => document.getElementById(id);
const number = (text, otherwise) => (text === "" ? otherwise : Number(text));

// A clip has an answer to each task. Where there is one task, the answer's element is the clip's own.

const clips = [];
const answers = [];
const clipOf = new Map();

function adopt(article) {
  const { row, slot, video, start, seconds, film } = article.dataset;
  const own = { article, item: article.parentElement, place: clips.length, answers: [], parts: [] }; // parts: those on its film's timeline
  const clip = { ...own, row: +row, slot: +slot, video, start: +start, seconds: +seconds, film, stop: field(`t-${article.id}`) };
  const nodes = article.matches(".answer") ? [article] : article.querySelectorAll(".answer");
  for (const node of nodes) {
    const { task, kind, flags, words, tokens } = node.dataset;
    const answer = { node, clip, task, kind, flags: flags.split(" "), words: +words, tokens: +tokens };
    answer.text = searched(answer);
    clip.answers.push(answer);
    answers.push(answer);
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
for (const part of document.querySelectorAll(".film [data-clip]")) clipOf.get(part.dataset.clip).parts.push(part);

// Marks are kept by the browser, under the page's and the caption's own names, so that they outlive a reload.

const KEY = `reelscribe-marks-${document.body.dataset.key}`;
const marks = new Map(Object.entries(load()));

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // no storage here: marks last as long as the page
  }
}

function mark(answer, change) {
  const mark = { flag: false, note: "", ...marks.get(answer.node.id), ...change };
  if (mark.flag || mark.note) marks.set(answer.node.id, mark);
  else marks.delete(answer.node.id);
  try {
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(marks)));
  } catch {
    // likewise
  }
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
  const lines = marked().map(({ node, clip, task }) => {
    const { flag, note } = marks.get(node.id);
    return JSON.stringify({ row: clip.row, video: clip.video || null, task, flag, note }) + "\n";
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = "marks.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
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
let shown = clips;

function find() {
  const name = field("sort").value.replace("-", "");
  const sign = field("sort").value.startsWith("-") ? -1 : 1;
  const compare = (a, b) => (name === "video" ? a.video.localeCompare(b.video) : sign * (a[name] - b[name]));
  shown = clips.filter((clip) => clip.answers.some(fits)).sort((a, b) => compare(a, b) || a.place - b.place);
  // What is taken out costs nothing; to hide a thousand clips where they stand takes a browser seconds.
  list.replaceChildren(...shown.map((clip) => clip.item));
  field("count").textContent = shown.length === clips.length ? `${shown.length} clips` : `${shown.length} of ${clips.length} clips`;
  field("nothing").hidden = shown.length > 0;
  const there = new Set(shown);
  for (const clip of clips) for (const part of clip.parts) part.classList.toggle("out", !there.has(clip));
}

function follow(event) {
  const answer = answers.find(({ node }) => `#${node.id}` === event.target.getAttribute("href"));
  if (!answer) return;
  event.preventDefault();
  visit(answer);
}

function visit(answer) {
  if (!shown.includes(answer.clip)) {
    for (const id of FILTERS) field(id).value = "";
    find();
  }
  focus(answer);
}

// Playing: the video is asked for when it is to be played, not before.

const lastPlayed = new Map(); // by film, the clip that has its player: browsers give a page some dozens, not hundreds

function player(clip) {
  const place = clip.article.querySelector(".player");
  const href = clip.article.querySelector(".play")?.dataset.href;
  if (href && !place.firstChild) {
    if (clip.film) takePlayer(clip);
    const video = document.createElement("video");
    video.controls = true;
    video.playsInline = true;
    video.addEventListener("error", () => {
      const told = document.createElement("p");
      told.className = "quiet";
      told.textContent = "This browser cannot play the video, or it is no longer there.";
      place.replaceChildren(told);
    });
    video.src = href;
    addSubtitles(video, clip);
    place.append(video);
    place.hidden = false;
  }
  return place.querySelector("video");
}

function takePlayer(clip) {
  const place = lastPlayed.get(clip.film)?.article.querySelector(".player");
  if (place) {
    place.querySelector("video")?.pause();
    place.replaceChildren();
    place.hidden = true;
  }
  lastPlayed.set(clip.film, clip);
}

// Events are subtitles while it plays: those of the first answer that has some, until the reader chooses others.

const MARKUP = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };

function addSubtitles(video, clip) {
  const timed = clip.answers.filter(({ node }) => node.querySelector(".events [data-start]"));
  for (const answer of timed) {
    const track = video.addTextTrack("subtitles", answer.task);
    track.mode = answer === timed[0] ? "showing" : "hidden";
    for (const event of answer.node.querySelectorAll(".events [data-start]")) {
      const text = event.querySelector("[data-text]").textContent.replace(/[&<>]/g, (sign) => MARKUP[sign]);
      // Chromium shows a cue at the very moment of its end, too, when that is sought: the next one begins there.
      track.addCue(new VTTCue(Number(event.dataset.start), Number(event.dataset.end) - 0.001, text));
    }
  }
}

function play(clip) {
  const video = player(clip);
  if (!video) return;
  if (video.paused) video.play().catch(() => {});
  else video.pause();
}

function seek(clip, seconds) {
  const video = player(clip);
  if (video) video.currentTime = seconds;
}

// Timelines: one stop of each is reached with Tab, the others from there with arrow keys.

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
  seek(clip, Number(part.dataset.seconds ?? clip.start));
  visit(clip.answers[0]);
}

function goBack(clip, event) {
  event.preventDefault();
  document.querySelector(".films").open = true;
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

function go(step) {
  const stops = shown.flatMap((clip) => clip.answers);
  if (!stops.length) return;
  const at = stops.indexOf(current());
  const next = at < 0 ? (step > 0 ? 0 : stops.length - 1) : Math.min(Math.max(at + step, 0), stops.length - 1);
  focus(stops[next]);
}

function focus(answer) {
  const { node, clip } = answer;
  node.focus({ preventScroll: true });
  (answer === clip.answers[0] ? clip.article : node).scrollIntoView({ block: "start" }); // the first one with its frames
}

function note(answer) {
  showNote(answer);
  answer.node.querySelector(".noting textarea").focus();
}

const deeds = { j: () => go(1), k: () => go(-1) };
const deedsOf = { f: flag, n: note, " ": (answer) => play(answer.clip) }; // what is done to the answer with the focus

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const answer = current();
  if (event.key === "Escape" && answer && event.target.matches("textarea")) focus(answer);
  if (!field("keys").checked || event.target.matches("input, select, textarea, video, dialog *")) return;
  if (event.key === " " && event.target.matches("button, summary, a")) return;
  const deed = deeds[event.key] ?? (answer && deedsOf[event.key]);
  if (deed) {
    event.preventDefault();
    deed(answer);
  }
}

// What there is to click on a clip and its answers.

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
for (const id of [...FILTERS, "sort"]) field(id).addEventListener("input", find);
list.addEventListener("click", follow);
field("export").addEventListener("click", exportMarks);
document.addEventListener("keydown", press);
showExport();
if (FILTERS.some((id) => field(id).value) || field("sort").value !== "place") find(); // as a reload leaves them
else field("count").textContent = `${clips.length} clips`;
