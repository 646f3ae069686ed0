// The labelling page: one pair at a time, one press decides, nothing decided is lost.

import { actionOf, isHeldPress, isTyping } from "./keys.js";
import { readable } from "./markup.js";
import { Courier, Outbox, kindOf } from "./outbox.js";
import * as view from "./view.js";

const { find, say } = view;

// A key meant for the last pair must not decide the next one, which nobody has seen yet.
const GUARD_MILLISECONDS = 250;
const WAITING_POLL = 5000;
const DONE_POLL = 15000;
const RENEW_AT_MOST_EVERY = 60000;
const RENEW_AT_LEAST_EVERY = 2000;

const SAID = {
  left: "A is better",
  right: "B is better",
  "left-much": "A is much better",
  "right-much": "B is much better",
  tie: "tie",
  bad: "both bad",
  skip: "skipped",
  flag: "flagged",
};
const STRENGTH = { better: 2, much: 3 };
const NOT_TAKEN = {
  LeaseConflict: "Not counted: the pair had gone to somebody else in the meantime.",
  DuplicateVote: "Not counted: this pair had its verdict already.",
};

const state = {
  pair: null,
  settings: { strength: false, reasons: [], guidelines: null },
  isRaw: false,
  // While a verdict is on its way, or none can be given.
  isBusy: true,
  readyAt: Infinity,
  shownAt: 0,
  hiddenFor: 0,
  hiddenSince: 0,
  renewAfter: Infinity,
  timer: 0,
  // What was ticked and written with the last verdict: an undo brings it back.
  last: { reasons: [], note: "" },
};

const courier = new Courier(showTrouble, document.body.dataset.person);
const outbox = new Outbox(courier, courier.person);

// --- what goes wrong ---------------------------------------------------------------------------------

function unsaved() {
  const entries = outbox.waiting();
  if (entries.length === 0) return "";
  const isUndo = entries.every((entry) => entry.path === "/api/undo");
  const verb = entries.length === 1 ? "is" : "are";
  return `${view.counted(entries.length, isUndo ? "undo" : "verdict")} ${verb} not saved yet`;
}

function showTrouble(kind) {
  if (kind === null) {
    showOthers();
    return;
  }
  const kept = unsaved();
  const now = [["Try now", () => courier.hurry()]];
  if (kind === "session") {
    const safe = kept ? ` ${kept}: this browser keeps it and sends it then.` : "";
    const what = "This link is no longer valid, since the server was started again. Open the new link that it printed.";
    view.showBanner(what + safe, now);
  } else if (kind === "other") {
    const safe = kept ? ` ${kept}: this browser keeps it and sends it then.` : "";
    const what = "Another person's link was opened in this browser, so this page waits. Open your own link again.";
    view.showBanner(what + safe, now);
  } else {
    const why = kind === "silent" ? "the server does not answer" : "the server is in trouble";
    const what = kept ? `${kept}: ${why}.` : `${why[0].toUpperCase()}${why.slice(1)}.`;
    view.showBanner(`${what} Trying again. This page may stay open or be closed; nothing is lost.`, now);
  }
}

function showOthers() {
  const num = outbox.ofOthers().length;
  const whose = `${view.counted(num, "verdict")} of another person ${num === 1 ? "is" : "are"} not saved yet`;
  const what = `${whose}: that person's link was open in this browser. Open it here again, and it is sent.`;
  view.showBanner(num ? what : "");
}

// A request that the server will never take is kept until the person gives it up.
function askAboutRefused(entry, reply) {
  return new Promise((resolve) => {
    const what = `${unsaved()}: the server refuses it (${reply.body.code ?? reply.status}).`;
    view.showBanner(what, [
      ["Try again", () => choose(false)],
      ["Give it up", () => choose(true)],
    ]);
    function choose(givenUp) {
      showOthers();
      resolve(givenUp);
    }
  });
}

// --- the pair ----------------------------------------------------------------------------------------

async function advance(saidBefore = "") {
  clearTimeout(state.timer);
  state.isBusy = true;
  const reply = await courier.ask("/api/lease", {});
  if (reply.status === 200) show(reply.body, saidBefore);
  else showStopped(reply);
}

function showStopped(reply) {
  view.showMessage("This page cannot go on", `The server answers ${reply.body.code ?? reply.status}. Reload the page.`);
  view.showPart("blank");
}

function show(body, saidBefore, { draft = { reasons: [], note: "" } } = {}) {
  Object.assign(state.settings, body.settings);
  state.pair = body.pair;
  view.showProgress(body.progress);
  applySettings();
  view.markChosen(null);
  if (body.pair) showPair(body, draft);
  else showNoPair(body);
  say(saidBefore);
  guard();
}

function applySettings() {
  const { strength, reasons, guidelines } = state.settings;
  view.setHidden(!strength, ".much", ".with-strength");
  view.setHidden(reasons.length === 0, "#reasons", ".with-reasons");
  view.setHidden(!guidelines, "#open-guidelines", ".with-guidelines");
  find("choices").classList.toggle("has-strength", strength);
  if (guidelines) find("guidelines-text").replaceChildren(...readable(guidelines));
}

function showPair(body, draft) {
  view.showPart("pair");
  view.showReasons(state.settings.reasons, draft.reasons);
  find("note").value = draft.note;
  view.showTexts(body.pair, state.isRaw);
  if (!document.querySelector("dialog[open]")) find("question").focus({ preventScroll: true });
  window.scrollTo(0, 0);
  scheduleRenewal(body.pair.lease_until);
}

function showNoPair(body) {
  view.showPart("message");
  view.showMessage(...(body.reason === "waiting" ? waitingMessage : doneMessage)(body.progress));
  find("message-title").focus({ preventScroll: true });
  lookLater(body.reason);
}

function waitingMessage({ waiting, next_free: nextFree }) {
  const title = "Nothing for you just now";
  if (waiting === 0) return [title, "More pairs are on their way. This page looks again by itself."];
  const clock = nextFree && new Date(nextFree * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const until = clock ? `, at the latest until ${clock}` : "";
  const held = `${view.counted(waiting, "pair")} ${waiting === 1 ? "is" : "are"} with other people now${until}.`;
  return [title, `${held} This page looks again by itself.`];
}

function doneMessage({ mine }) {
  const saved = mine ? ` ${view.counted(mine, "verdict")} of yours ${mine === 1 ? "is" : "are"} saved.` : "";
  return ["All done. Thank you!", `There is no pair left for you.${saved} You can close this page.`];
}

function lookLater(reason) {
  state.timer = setTimeout(look, reason === "waiting" ? WAITING_POLL : DONE_POLL);
}

// Look for a pair without a word while there is none; a server that was stopped after the end is no fault.
async function look() {
  if (state.isBusy) return;
  const reply = await courier.once("/api/lease", {});
  if (state.isBusy || state.pair) return;
  if (reply.status === 401) showTrouble(kindOf(reply));
  if (reply.status !== 200) {
    lookLater("done");
  } else if (reply.body.pair) {
    show(reply.body, "A pair has come.");
  } else {
    view.showProgress(reply.body.progress);
    view.showMessage(...(reply.body.reason === "waiting" ? waitingMessage : doneMessage)(reply.body.progress));
    lookLater(reply.body.reason);
  }
}

function setReadyAt(moment) {
  state.readyAt = moment;
  // For whoever drives the page by a program: until then, keys are not taken.
  document.body.dataset.readyAt = String(moment);
}

function guard() {
  setReadyAt(Infinity);
  state.isBusy = false;
  view.markUnusable(false, "#choices button, .aside");
  // The second frame begins once the first has been painted; neither comes while the page is hidden.
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      state.shownAt = performance.now();
      setReadyAt(state.shownAt + GUARD_MILLISECONDS);
      state.hiddenFor = 0;
    }),
  );
}

const isReady = () => !state.isBusy && performance.now() >= state.readyAt;

// --- deciding ----------------------------------------------------------------------------------------

async function decide(action) {
  if (state.pair === null || !isReady()) return;
  state.isBusy = true;
  view.markChosen(action);
  view.markUnusable(true, "#choices button, .aside, [data-action='undo']");
  say("Saving …");
  outbox.put("/api/vote", ballot(action));
  await deliver(action);
}

function ballot(action) {
  const [choice, much] = action.split("-");
  const body = { ticket: state.pair.ticket, choice, milliseconds: Math.round(seenFor()) };
  if (state.settings.strength && (choice === "left" || choice === "right")) {
    body.strength = much ? STRENGTH.much : STRENGTH.better;
  }
  const reasons = view.tickedReasons();
  const note = find("note").value.trim();
  if (reasons.length) body.reasons = reasons;
  if (note) body.note = note;
  state.last = { reasons, note };
  return body;
}

// What the server did with what was sent, and the next pair.
async function deliver(action) {
  const done = await outbox.flush(askAboutRefused);
  if (done === null) await advance();
  else if (done.status !== 200) await advance(NOT_TAKEN[done.body.code] ?? "Not counted.");
  else await advance(action ? `Saved: ${SAID[action]}.` : "What this browser had kept is saved now.");
}

async function undo() {
  if (!isReady() || document.querySelector("[data-action='undo'][aria-disabled]")) return;
  clearTimeout(state.timer);
  state.isBusy = true;
  outbox.put("/api/undo", {});
  const done = await outbox.flush(askAboutRefused);
  if (done?.status === 200) show(done.body, "Undone: this is the pair of your last verdict.", { draft: state.last });
  else await advance("There is nothing to undo.");
}

// --- time --------------------------------------------------------------------------------------------

const seenFor = () => performance.now() - state.shownAt - state.hiddenFor;

function scheduleRenewal(leaseUntil) {
  const left = leaseUntil * 1000 - Date.now();
  const every = Math.min(RENEW_AT_MOST_EVERY, Math.max(RENEW_AT_LEAST_EVERY, left / 4));
  state.renewAfter = performance.now() + every;
}

// The lease lives as long as somebody reads: a key, a pointer or a scroll asks for more time.
async function renew() {
  if (state.pair === null || state.isBusy || performance.now() < state.renewAfter) return;
  state.renewAfter = performance.now() + RENEW_AT_LEAST_EVERY;
  const { pair } = state;
  const reply = await courier.once("/api/renew", { ticket: pair.ticket });
  if (state.pair !== pair || state.isBusy) return;
  if (reply.status === 200) scheduleRenewal(reply.body.lease_until);
  else if (reply.status === 409) await advance("The pair you had was given to somebody else, as its time was up.");
}

function watchVisibility() {
  if (document.hidden) state.hiddenSince = performance.now();
  else {
    state.hiddenFor += performance.now() - state.hiddenSince;
    renew();
  }
}

// --- keys and buttons --------------------------------------------------------------------------------

function toggleRaw() {
  state.isRaw = !state.isRaw;
  find("raw").setAttribute("aria-pressed", String(state.isRaw));
  if (state.pair) view.showTexts(state.pair, state.isRaw);
  say(state.isRaw ? "Raw view." : "Readable view.");
}

const ACTIONS = {
  undo,
  raw: toggleRaw,
  help: () => view.toggleDialog("help"),
  guidelines: () => state.settings.guidelines && view.toggleDialog("guidelines"),
  note: () => find("note").focus(),
  reasons: () => find("reason-list").querySelector("input")?.focus(),
};

const act = (action) => (ACTIONS[action] ?? (() => decide(action)))();

function onKey(event) {
  if (isHeldPress(event)) event.preventDefault();
  if (event.key === "Escape" && isTyping(event.target)) find("question").focus();
  const action = find("single-keys").checked ? actionOf(event, state.settings.strength) : null;
  if (action === null) return;
  const open = document.querySelector("dialog[open]");
  // Behind an open dialog nothing is decided; its own key closes it.
  if (open && open.id !== action) return;
  event.preventDefault();
  act(action);
}

function onClick(event) {
  const button = event.target.closest("button");
  if (button?.dataset.action) act(button.dataset.action);
  else if (button?.classList.contains("close")) button.closest("dialog").close();
}

function keepSingleKeys() {
  const box = find("single-keys");
  try {
    box.checked = localStorage.getItem("logratio.single-keys") !== "off";
    box.addEventListener("change", () => localStorage.setItem("logratio.single-keys", box.checked ? "on" : "off"));
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

function listen() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick);
  find("raw").addEventListener("click", toggleRaw);
  for (const id of ["help", "guidelines"]) find(`open-${id}`).addEventListener("click", () => view.toggleDialog(id));
  for (const name of ["keydown", "pointerdown", "scroll"]) document.addEventListener(name, renew, { passive: true });
  document.addEventListener("visibilitychange", watchVisibility);
  window.addEventListener("resize", view.settle);
  keepSingleKeys();
}

listen();
view.showPart("blank");
deliver("");
