// What stands on the screen. Knows the elements of page.html and no route.

import { element, holdsUnseen, rawView, readable, settleScrolling } from "./markup.js";

export const find = (id) => document.getElementById(id);

const ROLES = { system: "System", user: "User", assistant: "Assistant" };
const NUMBER = new Intl.NumberFormat("en");

/** Show or hide, by elements or selectors. */
export function setHidden(hidden, ...selectors) {
  for (const selector of selectors) {
    for (const one of document.querySelectorAll(selector)) one.hidden = hidden;
  }
}

/** "1 verdict", "2 verdicts". */
export const counted = (number, noun) => `${NUMBER.format(number)} ${noun}${number === 1 ? "" : "s"}`;

const content = (text, isRaw) => (isRaw ? rawView(text.raw) : readable(text.tree));

/** The prompt and both answers. No length is shown: it would be one more reason to prefer the longer one. */
export function showTexts(pair, isRaw) {
  const turns = pair.prompt.map((turn) => {
    const text = element("div", { class: "text" }, ...content(turn, isRaw));
    if (pair.prompt.length === 1 && turn.role === "user") return element("div", { class: "turn" }, text);
    const role = element("h4", { class: "role" }, ROLES[turn.role] ?? turn.role);
    return element("div", { class: `turn from-${turn.role in ROLES ? turn.role : "other"}` }, role, text);
  });
  find("turns").replaceChildren(...turns);
  find("prompt-title").textContent = pair.prompt.length > 1 ? "Conversation" : "Prompt";
  for (const side of ["left", "right"]) {
    find(side).replaceChildren(...content(pair[side], isRaw));
    find(side).previousElementSibling.hidden = isRaw || !holdsUnseen(pair[side].raw);
  }
  settle();
  // Of a long conversation the last turn is what the answers answer.
  find("turns").scrollTop = pair.prompt.length > 1 ? find("turns").scrollHeight : 0;
}

/** After texts or the window's width changed. */
export function settle() {
  settleScrolling(find("turns").parentElement, "Text of the prompt");
  settleScrolling(find("left"), "Text of answer A");
  settleScrolling(find("right"), "Text of answer B");
  settleScrolling(find("guidelines-text"), "Text of the guidelines");
}

/** Reasons as tick boxes, as the server lists them. */
export function showReasons(reasons, ticked) {
  const boxes = reasons.map((reason) => {
    const box = element("input");
    box.type = "checkbox";
    box.value = reason;
    box.checked = ticked.includes(reason);
    return element("label", {}, box, element("span", {}, reason));
  });
  find("reason-list").replaceChildren(...boxes);
  setHidden(reasons.length === 0, "#reasons", ".with-reasons");
}

export const tickedReasons = () =>
  [...find("reason-list").querySelectorAll("input:checked")].map((box) => box.value);

export function showProgress(progress) {
  const { mine, done, total } = progress;
  const pairs = `${NUMBER.format(done)} of ${counted(total, "pair")} done`;
  const own = mine === done ? "" : ` · ${NUMBER.format(mine)} by you`;
  find("count").textContent = pairs + own;
  find("progress").max = Math.max(1, total);
  find("progress").value = done;
  markUnusable(mine === 0, '[data-action="undo"]');
}

/** The buttons keep the focus while they cannot be used, so they are marked and not disabled. */
export function markUnusable(unusable, selector) {
  for (const button of document.querySelectorAll(selector)) {
    if (unusable) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }
}

export function markChosen(action) {
  for (const button of document.querySelectorAll("[data-action]")) {
    button.classList.toggle("chosen", button.dataset.action === action);
  }
}

/** The pair's part of the page, or a message in its place. */
export function showPart(part) {
  find("pair").hidden = part !== "pair";
  find("message").hidden = part === "pair";
  setHidden(part !== "pair", "#choices", ".aside");
  find("verdict").hidden = part === "blank";
}

export function showMessage(title, text) {
  find("message-title").textContent = title;
  find("message-text").textContent = text;
}

export function say(text) {
  find("status").textContent = text;
}

/** The red line at the top; `actions` are `[label, function]`. Nothing said takes it away. */
export function showBanner(text, actions = []) {
  const banner = find("banner");
  // An alert that is written again is read again: the same words stay untouched.
  if (banner.dataset.text === text) return;
  banner.dataset.text = text;
  const buttons = actions.map(([label, act]) => {
    const button = element("button", {}, label);
    button.type = "button";
    button.addEventListener("click", act);
    return button;
  });
  banner.replaceChildren(...(text ? [element("p", {}, text), ...buttons] : []));
}

/** Make a dialog of the page: a button opens it, its own button closes it, the focus goes back. */
export function toggleDialog(id) {
  const dialog = find(id);
  if (dialog.open) {
    dialog.close();
    return;
  }
  dialog.showModal();
  dialog.querySelector("h2").focus();
  settle();
}
