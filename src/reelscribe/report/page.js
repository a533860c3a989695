"use strict";
// What a reader does to the page: find, sort, play, mark, export. All data are in the page already.

const list = document.getElementById("clips");
const field = (id) => document.getElementById(id);
const number = (text, otherwise) => (text === "" ? otherwise : Number(text));

const clips = [...list.querySelectorAll("article")].map((article, place) => {
  const { row, slot, video, kind, flags, words, seconds, tokens } = article.dataset;
  const text = [...article.querySelectorAll("[data-text]")].map((part) => part.textContent).join("\n").toLowerCase();
  const told = { row: Number(row), slot: Number(slot), video, kind, flags: flags.split(" "), text };
  return { article, item: article.parentElement, place, ...told, words: +words, seconds: +seconds, tokens: +tokens };
});
const clipOf = (node) => clips.find((clip) => clip.article === node.closest?.("article"));

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

function mark(clip, change) {
  const mark = { flag: false, note: "", ...marks.get(clip.article.id), ...change };
  if (mark.flag || mark.note) marks.set(clip.article.id, mark);
  else marks.delete(clip.article.id);
  try {
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(marks)));
  } catch {
    // likewise
  }
  showMark(clip);
  showExport();
}

function showMark(clip) {
  const { flag = false, note = "" } = marks.get(clip.article.id) ?? {};
  const button = clip.article.querySelector(".flag");
  button.setAttribute("aria-pressed", String(flag));
  button.textContent = flag ? "Flagged" : "Flag";
  const area = clip.article.querySelector("textarea");
  if (area.value !== note) area.value = note;
  if (note) showNote(clip);
}

function showNote(clip) {
  clip.article.querySelector(".noting").hidden = false;
  clip.article.querySelector(".note").setAttribute("aria-expanded", "true");
}

const marked = () => clips.filter((clip) => marks.has(clip.article.id));

function showExport() {
  const count = marked().length;
  field("export").disabled = count === 0;
  field("export").textContent = count ? `Export ${count} mark${count === 1 ? "" : "s"}` : "Export marks";
}

function exportMarks() {
  const lines = marked().map((clip) => {
    const { flag, note } = marks.get(clip.article.id);
    return JSON.stringify({ row: clip.row, video: clip.video || null, flag, note }) + "\n";
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = "marks.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

// Finding and sorting

function fits(clip) {
  const wanted = field("search").value.trim().toLowerCase();
  if (wanted && !clip.text.includes(wanted)) return false;
  const least = number(field("least").value, 0);
  const most = number(field("most").value, Infinity);
  const limited = least > 0 || most < Infinity;
  if (limited && (clip.kind || clip.words < least || clip.words > most)) return false;
  const [what, name] = field("show").value.split(":");
  if (what === "caption") return !clip.kind;
  if (what === "failure") return clip.kind !== "";
  if (what === "flag") return clip.flags.includes(name);
  if (what === "kind") return clip.kind === name;
  if (what === "marked") return marks.has(clip.article.id);
  return true;
}

const FILTERS = ["search", "show", "least", "most"];
let shown = clips;

function find() {
  const name = field("sort").value.replace("-", "");
  const sign = field("sort").value.startsWith("-") ? -1 : 1;
  const compare = (a, b) => (name === "video" ? a.video.localeCompare(b.video) : sign * (a[name] - b[name]));
  shown = clips.filter(fits).sort((a, b) => compare(a, b) || a.place - b.place);
  // What is taken out costs nothing; to hide a thousand clips where they stand takes a browser seconds.
  list.replaceChildren(...shown.map((clip) => clip.item));
  field("count").textContent = shown.length === clips.length ? `${shown.length} clips` : `${shown.length} of ${clips.length} clips`;
  field("nothing").hidden = shown.length > 0;
}

function follow(event) {
  const clip = clips.find(({ article }) => `#${article.id}` === event.target.getAttribute("href"));
  if (!clip) return;
  event.preventDefault();
  if (!shown.includes(clip)) {
    for (const id of FILTERS) field(id).value = "";
    find();
  }
  focus(clip);
}

// Playing: the video is asked for when it is to be played, not before.

function player(clip) {
  const place = clip.article.querySelector(".player");
  const href = clip.article.querySelector(".play")?.dataset.href;
  if (href && !place.firstChild) {
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
    place.append(video);
    place.hidden = false;
  }
  return place.querySelector("video");
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

// Keyboard

const current = () => clipOf(document.activeElement);

function go(step) {
  if (!shown.length) return;
  const at = shown.indexOf(current());
  const next = at < 0 ? (step > 0 ? 0 : shown.length - 1) : Math.min(Math.max(at + step, 0), shown.length - 1);
  focus(shown[next]);
}

function focus(clip) {
  clip.article.focus({ preventScroll: true });
  clip.article.scrollIntoView({ block: "start" });
}

function note(clip) {
  showNote(clip);
  clip.article.querySelector("textarea").focus();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const clip = current();
  if (event.key === "Escape" && clip && event.target.matches("textarea")) focus(clip);
  if (!field("keys").checked || event.target.matches("input, select, textarea, video")) return;
  if (event.key === " " && event.target.matches("button, summary, a")) return;
  const deeds = { j: () => go(1), k: () => go(-1) };
  if (clip) {
    deeds.f = () => mark(clip, { flag: !marks.get(clip.article.id)?.flag });
    deeds.n = () => note(clip);
    deeds[" "] = () => play(clip);
  }
  if (deeds[event.key]) {
    event.preventDefault();
    deeds[event.key]();
  }
}

for (const clip of clips) {
  const within = (selector) => clip.article.querySelector(selector);
  within(".actions").hidden = false;
  within(".play")?.addEventListener("click", () => play(clip));
  within(".flag").addEventListener("click", () => mark(clip, { flag: !marks.get(clip.article.id)?.flag }));
  within(".note").addEventListener("click", () => note(clip));
  within("textarea").addEventListener("input", (event) => mark(clip, { note: event.target.value }));
  if (within(".play") && within(".strip")) {
    within(".strip").classList.add("seekable");
    within(".strip").addEventListener("click", (event) => {
      if (event.target.dataset.seconds) seek(clip, Number(event.target.dataset.seconds));
    });
  }
  showMark(clip);
}
document.querySelector(".toolbar").hidden = false;
document.querySelector(".toolbar").addEventListener("submit", (event) => event.preventDefault());
for (const id of [...FILTERS, "sort"]) field(id).addEventListener("input", find);
list.addEventListener("click", follow);
field("export").addEventListener("click", exportMarks);
document.addEventListener("keydown", press);
showExport();
if (FILTERS.some((id) => field(id).value) || field("sort").value !== "place") find(); // as a reload leaves them
else field("count").textContent = `${clips.length} clips`;
