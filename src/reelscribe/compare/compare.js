"use strict";
// Actions of a voter: look, vote, export, and at the end see which side was which.

const NAME = document.body.dataset.name;
const told = read(field("told").textContent, NAME);
const BLIND = "blind" in document.body.dataset;

// Decodes the sides' names and the order of their texts, which are obscured so that nobody reads them by chance.
function read(text, key) {
  const bytes = Uint8Array.from(atob(text), (sign, at) => sign.charCodeAt(0) ^ key.charCodeAt(at % key.length));
  return JSON.parse(new TextDecoder().decode(bytes));
}

const clips = [...list.querySelectorAll("article")].map((article) => ({
  article,
  item: article.parentElement,
  id: article.id,
  same: "same" in article.dataset,
  buttons: [...article.querySelectorAll("[data-vote]")],
}));
const clipOf = (node) => clips.find(({ article }) => article === node?.closest?.("article"));

// The browser stores votes by page and by clip. A vote names the position of the text, not its side.

const VOTES = `reelscribe-votes-${NAME}`;
const before = stored(localStorage, VOTES, {});
const votes = new Map(Object.entries(before.votes ?? {}));
const voter = stored(localStorage, "reelscribe-voter", null) ?? newVoter();
let ended = BLIND && before.ended === true;

const keep = () => store(localStorage, VOTES, { votes: Object.fromEntries(votes), ended });

function newVoter() {
  const id = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  store(localStorage, "reelscribe-voter", id);
  return id;
}

function vote(clip, what) {
  if (ended) return;
  if (what === null || votes.get(clip.id) === what) votes.delete(clip.id);
  else votes.set(clip.id, what);
  keep();
  showVote(clip);
  showCounts();
}

function showVote(clip) {
  for (const button of clip.buttons) {
    button.setAttribute("aria-pressed", String(votes.get(clip.id) === button.dataset.vote));
    button.disabled = ended;
  }
}

const voted = () => clips.filter(({ id }) => votes.has(id));

function showCounts() {
  const count = voted().length;
  const of = shown.length === clips.length ? "" : `${countOf(shown.length, "clip")} shown, `;
  field("count").textContent = `${of}${count} of ${clips.length} voted on`;
  field("export").disabled = count === 0;
  field("export").textContent = count ? `Export ${countOf(count, "vote")}` : "Export votes";
  if (field("end")) field("end").disabled = count === 0 || ended;
  if (!BLIND || ended) showTally();
}

// The side that a clip's vote picks; null for a tie, or if all are bad.
function sideOf(clip) {
  const what = votes.get(clip.id);
  return what === "tie" || what === "bad" ? null : told.sides[told.orders[clip.id][what - 1]];
}

function exportVotes() {
  const rows = voted().map((clip) => {
    const picked = sideOf(clip);
    const what = picked === null ? votes.get(clip.id) : "better";
    const said = { clip: clip.id, video: clip.article.dataset.video, sides: told.sides, vote: what, picked };
    return { ...said, blind: BLIND, voter };
  });
  save("votes.jsonl", rows);
}

// Results of the votes. `statistics.py` has the same formulas, and names their sources.

const Z = 1.959964;

function wilson(picked, count) {
  const [share, square] = [picked / count, (Z * Z) / count];
  const middle = (share + square / 2) / (1 + square);
  const half = (Z * Math.sqrt((share * (1 - share)) / count + square / count / 4)) / (1 + square);
  return [Math.max(middle - half, 0), Math.min(middle + half, 1)];
}

function needed(first, second) {
  const distance = Math.abs(first / (first + second) - 0.5);
  return Math.max(Math.floor((Z * Z) / (4 * distance * distance)) + 1 - first - second, 0);
}

function verdict([one, first], [other, second]) {
  const pair = `${one} and ${other}: ${first} to ${second}`;
  if (first + second === 0) return `${one} and ${other}: no vote for either yet.`;
  if (first === second) return `${pair}. They are level, so no number of votes can be told.`;
  const more = needed(first, second);
  if (more === 0) return `${pair}. ${first > second ? one : other} is picked more often, at 95%.`;
  return `${pair}. No difference can be told at 95%; ${countOf(more, "more vote")} for the two together would tell it, if they split as so far.`;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

function showTally() {
  const all = voted();
  const picks = all.map(sideOf).filter((side) => side !== null);
  const sides = told.sides.map((side) => [side, picks.filter((pick) => pick === side).length]);
  const count = (what) => all.filter(({ id }) => votes.get(id) === what).length;
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  head.append(...["Side", "Picked", "Share", "95% interval"].map((text) => make("th", text, { scope: "col" })));
  const body = table.createTBody();
  for (const [side, picked] of sides) {
    const row = body.insertRow();
    const interval = picks.length ? wilson(picked, picks.length).map(percent).join(" to ") : "";
    const share = picks.length ? percent(picked / picks.length) : "";
    row.append(make("th", side, { scope: "row" }), ...[picked, share, interval].map((text) => make("td", text)));
  }
  const wide = make("div", "", { class: "wide", role: "region", tabindex: "0", "aria-label": "Votes by side" });
  wide.append(table);
  const rest = `Ties ${count("tie")}, ${sides.length === 2 ? "both" : "all"} bad ${count("bad")}. Shares are of the clips with a better text.`;
  const pairs = sides.flatMap((one, at) => sides.slice(at + 1).map((other) => verdict(one, other)));
  field("tally").replaceChildren(wide, ...[rest, ...pairs].map((text) => make("p", text, { class: "quiet" })));
  field("tally").hidden = all.length === 0;
}

// On a blind page, ending the voting shows which side was which.

function endVoting() {
  ended = true;
  keep();
  unveil();
  showCounts();
  showPart(field("results"));
  field("tab-results").focus();
}

function unveil() {
  for (const clip of clips) {
    for (const [place, text] of clip.article.querySelectorAll(".text").entries()) {
      text.querySelector(".side").textContent = `: ${told.sides[told.orders[clip.id][place]]}`;
      text.querySelector(".facts").textContent = told.facts[clip.id][place];
    }
    showVote(clip);
  }
  field("figures").innerHTML = told.figures; // safe: rendered by the same templates as the page
  field("wait").hidden = field("veiled").hidden = true;
}

function askToEnd() {
  field("ending-count").textContent = `You voted on ${voted().length} of ${countOf(clips.length, "clip")}.`;
  field("ending").showModal();
}

// Finding and moving

let shown = clips;

function fits(clip) {
  const what = field("show").value;
  if (what === "open") return !votes.has(clip.id);
  if (what === "voted") return votes.has(clip.id);
  return what !== "differ" || !clip.same;
}

function find() {
  shown = clips.filter(fits);
  layOut(shown.map(({ item }) => item));
  field("nothing").hidden = shown.length > 0;
  showCounts();
}

function focus(clip) {
  goTo(clip, clip.article).scrollIntoView({ block: "start" });
}

function go(by) {
  const next = step(shown, clipOf(document.activeElement), by);
  if (next) focus(next);
}

function goToOpen(clip) {
  const behind = shown.slice(shown.indexOf(clip) + 1).find(({ id }) => !votes.has(id));
  if (behind) focus(behind);
}

const play = (clip) => toggle(playerOf(clip.article));

function voteByKey(clip, what) {
  vote(clip, what);
  if (votes.has(clip.id)) goToOpen(clip);
}

Object.assign(deeds, { j: () => go(1), k: () => go(-1) });
Object.assign(deedsOf, {
  " ": play,
  u: (clip) => vote(clip, null),
  t: (clip) => voteByKey(clip, "tie"),
  b: (clip) => voteByKey(clip, "bad"),
});
for (const place of told.sides.keys()) deedsOf[place + 1] = (clip) => voteByKey(clip, String(place + 1));

for (const clip of clips) {
  const within = (selector) => clip.article.querySelector(selector);
  within(".play")?.addEventListener("click", () => play(clip));
  within(".votes").hidden = within(".actions").hidden = false;
  for (const button of clip.buttons) button.addEventListener("click", () => vote(clip, button.dataset.vote));
  showVote(clip);
}
document.querySelector(".toolbar").hidden = field("exporting").hidden = false;
document.querySelector(".toolbar").addEventListener("submit", (event) => event.preventDefault());
field("show").addEventListener("input", () => {
  find();
  showFirst();
});
field("clear").addEventListener("click", () => {
  field("show").value = "";
  find();
  field("show").focus();
});
field("export").addEventListener("click", exportVotes);
field("end")?.addEventListener("click", askToEnd);
field("ending")?.addEventListener("close", () => field("ending").returnValue === "end" && endVoting());
listenToKeys(() => clipOf(document.activeElement));
if (ended) unveil();
find(); // apply what the browser restores into the field on a reload
