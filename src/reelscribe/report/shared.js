"use strict";
// Shared by all pages with clips: storage, tabs, a list that is filled in parts, frames, players, keys.

const field = (id) => document.getElementById(id);
const list = field("clips");

function make(name, text, attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// If the browser allows no storage, values last as long as the page.

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
    // no storage: see above
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

// Tabs: links to the parts of the page. Without scripts, the parts are shown below each other.

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

// The list holds the first clips, and gets more as the reader nears its end: showing thousands at once takes seconds.

const PIECE = 40;
const end = list.parentElement.insertBefore(make("div", "", { class: "end" }), list.nextSibling);
let items = []; // all elements; the first ones are in the list

function fill(count) {
  const added = items.slice(list.children.length, count);
  if (!added.length) return;
  list.append(...added);
  for (const item of added) wireStrip(item.querySelector(".strip"));
  nearEnd.unobserve(end); // observing it again reports whether the end is still near
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

// After a search from further down, scrolls to the first clip, below the toolbar.
function showFirst() {
  const below = document.querySelector(".toolbar").getBoundingClientRect().bottom;
  if (list.getBoundingClientRect().top < below - 1) scrollBy(0, list.getBoundingClientRect().top - below);
}

// Clips that are scrolled to stop below the toolbar, so the style sheet needs its height.
new ResizeObserver(([{ target }]) => {
  document.documentElement.style.setProperty("--toolbar", `${target.offsetHeight}px`);
}).observe(document.querySelector(".toolbar"));

const more = field("more");
more?.addEventListener("click", () => {
  const isOpen = document.querySelector(".toolbar").classList.toggle("open");
  more.setAttribute("aria-expanded", String(isOpen));
});

// Frames that overflow at a side: a button shows how many, and scrolls to them.

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
    // Hidden from keyboards and screen readers: keys scroll the strip itself, and screen readers know its frames.
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

// Playing: a video is loaded only when it is to be played.

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

// Keys: `deeds` has actions by key; `deedsOf` has actions on the focused item, which `current` returns.

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
