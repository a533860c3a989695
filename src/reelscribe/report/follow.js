"use strict";
// Follows a run that is under way: updates its numbers, and adds clips to the page as the run makes them.

const NEWS_MILLISECONDS = 1000;
const IDLE_MILLISECONDS = 5000; // a run that broke off may be resumed
let received = 0; // number of clips that were added since the page was loaded
let following = true;
let pause = NEWS_MILLISECONDS;

const counted = (numbers) => Object.entries(numbers).map(([name, count]) => `${count} ${name.replaceAll("_", " ")}`).join(", ");

function showRun(run) {
  const total = run.total === null ? "" : ` of ${run.total.toLocaleString("en")}`;
  const parts = [`${run.rows.toLocaleString("en")}${total} rows`, captionCount(run.captions)];
  if (Object.keys(run.failures).length) parts.push(`failed: ${counted(run.failures)}`);
  if (Object.keys(run.flags).length) parts.push(`flagged: ${counted(run.flags)}`);
  if (run.state === "running" && run.made_per_second) parts.push(`${run.made_per_second.toFixed(2)} clips a second`);
  const begins = { finished: "The run is finished", "broken off": "The run broke off" }[run.state] ?? "The run is going on";
  const more = run.state === "finished" ? ". Start reelscribe view again for all of it." : "";
  const said = `${begins}: ${parts.join(" · ")}${more}`;
  const place = field("run");
  if (place.textContent !== said) place.textContent = said; // else a screen reader would repeat it every second
}

async function hearNews() {
  if (document.hidden || !following) return;
  const told = await ask(`news?seen=${received}`);
  if (told.status !== 200) return;
  received += told.clips.length;
  receive(told.clips);
  if (told.begun_anew) {
    following = false;
    field("run").textContent = "The run began again from its first row; start reelscribe view again.";
    return;
  }
  showRun(told.run);
  following = told.run.state !== "finished" || told.clips.length > 0;
  pause = told.run.state === "broken off" ? IDLE_MILLISECONDS : NEWS_MILLISECONDS;
}

// Sends one request at a time, however long its response takes.
async function keepHearing() {
  await hearNews();
  setTimeout(keepHearing, pause);
}
keepHearing();
