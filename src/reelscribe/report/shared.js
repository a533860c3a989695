"use strict";
// What pages with clips have in common: storage, tabs, a list that is shown in parts, frames, players, keys.

const field = (id) => document.getElementById(id);
const list = field("clips");

function make(name, text, attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Without storage, what is kept lasts as long as the page.

function stored(storage, key, otherwise) {
  try {
    return JSON.parse(storage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function store(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {
    // as above
  }
}

function save(name, rows) {
  const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
  const link = make("a", "", { download: name });
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.click();
  URL.revokeObjectURL(link.href);
}

const countOf = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

// Tabs: links to the parts of the page, which stand below each other if no script runs.

const tabs = [...document.querySelectorAll(".tabs a")];
const partOf = (tab) => field(tab.hash.slice(1));

function openTab(tab) {
  for (const each of tabs) {
    const isOpen = each === tab;
    each.setAttribute("aria-selected", String(isOpen));
    each.tabIndex = isOpen ? 0 : -1;
    partOf(each).hidden = !isOpen;
  }
}

const showPart = (node) => openTab(tabs.find((tab) => partOf(tab).contains(node)));

function moveTab(event) {
  const at = tabs.indexOf(event.target);
  const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1, " ": at };
  const next = tabs[(places[event.key] + tabs.length) % tabs.length];
  if (!next || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  openTab(next);
  next.focus();
}

document.querySelector(".tabs").setAttribute("role", "tablist");
for (const tab of tabs) {
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", partOf(tab).id);
  partOf(tab).setAttribute("role", "tabpanel");
  tab.addEventListener("keydown", moveTab);
  tab.addEventListener("click", (event) => {
    event.preventDefault();
    openTab(tab);
  });
}
if (tabs.length) openTab(tabs[0]);

// The list holds the first clips, and more as the reader comes near its end: browsers take seconds for thousands.

const PIECE = 40;
const end = list.parentElement.insertBefore(make("div", "", { class: "end" }), list.nextSibling);
let items = []; // elements, of which the first are in the list

function fill(count) {
  const added = items.slice(list.children.length, count);
  if (!added.length) return;
  list.append(...added);
  for (const item of added) wireStrip(item.querySelector(".strip"));
  nearEnd.unobserve(end); // it says again whether the end is near
  nearEnd.observe(end);
}

const nearEnd = new IntersectionObserver(
  ([{ isIntersecting }]) => isIntersecting && fill(list.children.length + PIECE),
  { rootMargin: "1500px" },
);

function layOut(nodes) {
  items = nodes;
  list.replaceChildren();
  fill(PIECE);
}

function goTo(clip, node) {
  showPart(list);
  fill(items.indexOf(clip.item) + 2);
  node.focus({ preventScroll: true });
  return node;
}

// A search that is made below shows its first clip, under the toolbar.
function showFirst() {
  const below = document.querySelector(".toolbar").getBoundingClientRect().bottom;
  if (list.getBoundingClientRect().top < below - 1) scrollBy(0, list.getBoundingClientRect().top - below);
}

// How high the toolbar is decides where a clip stops when it is scrolled to.
new ResizeObserver(([{ target }]) => {
  document.documentElement.style.setProperty("--toolbar", `${target.offsetHeight}px`);
}).observe(document.querySelector(".toolbar"));

const more = field("more");
more?.addEventListener("click", () => {
  const isOpen = document.querySelector(".toolbar").classList.toggle("open");
  more.setAttribute("aria-expanded", String(isOpen));
});

// Frames that run off the side: a button says how many, and leads there.

function showRest(strip) {
  const frames = [...strip.querySelectorAll("li")];
  const { left, right } = strip.getBoundingClientRect();
  const off = { earlier: 0, later: 0 };
  for (const frame of frames) {
    const box = frame.getBoundingClientRect();
    if (box.left < left - box.width / 2) off.earlier += 1;
    if (box.right > right + box.width / 2) off.later += 1;
  }
  for (const [side, count] of Object.entries(off)) {
    const button = strip.parentElement.querySelector(`.${side}`);
    button.hidden = count === 0;
    button.textContent = side === "earlier" ? `‹ ${count}` : `${count} ›`;
  }
}

function wireStrip(strip) {
  if (!strip || strip.parentElement.querySelector(".later")) return;
  for (const [side, step] of [["earlier", -0.8], ["later", 0.8]]) {
    // Keys scroll the strip itself, and what reads aloud knows how many frames it has.
    const button = make("button", "", { type: "button", class: side, tabindex: "-1", "aria-hidden": "true" });
    button.hidden = true;
    button.addEventListener("click", () => strip.scrollBy({ left: step * strip.clientWidth }));
    strip.parentElement.append(button);
  }
  strip.addEventListener("scroll", () => showRest(strip));
  sized.observe(strip);
}

const sized = new ResizeObserver((changes) => changes.forEach(({ target }) => target.isConnected && showRest(target)));
list.addEventListener("load", ({ target }) => showRest(target.closest(".strip")), true);

// Playing: the video is asked for when it is to be played, not before.

function playerOf(article, begun = () => {}) {
  const place = article.querySelector(".player");
  const href = article.querySelector(".play")?.dataset.href;
  if (href && !place.firstChild) {
    const video = make("video", "", { controls: "", playsinline: "" });
    const gone = "This browser cannot play the video, or it is no longer there.";
    video.addEventListener("error", () => place.replaceChildren(make("p", gone, { class: "quiet" })));
    video.src = href;
    begun(video);
    place.append(video);
    place.hidden = false;
  }
  return place.querySelector("video");
}

function toggle(video) {
  if (video?.paused) video.play().catch(() => {});
  else video?.pause();
}

// Keys: `deeds` by key, and what is done to what has the focus, as `current` finds it, in `deedsOf`.

const deeds = {};
const deedsOf = {};

function step(stops, present, by) {
  const at = stops.indexOf(present);
  return stops[at < 0 ? (by > 0 ? 0 : stops.length - 1) : Math.min(Math.max(at + by, 0), stops.length - 1)];
}

function listenToKeys(current) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !field("keys").checked) return;
    if (event.target.matches("input, select, textarea, video, dialog, dialog *")) return;
    if (event.key === " " && event.target.matches("button, summary, a")) return;
    const present = current();
    const deed = deeds[event.key] ?? (present && deedsOf[event.key]);
    if (!deed) return;
    event.preventDefault();
    deed(present);
  });
}
