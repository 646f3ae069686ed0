// Which key means which action. Nothing here touches the page.

const LETTERS = { s: "skip", f: "flag", u: "undo", g: "guidelines", r: "raw", n: "note", w: "reasons", "?": "help" };
const DIGITS = { 1: "left", 2: "right", 0: "tie", 9: "bad" };
const MUCH = { 1: "left-much", 2: "right-much" };

/** Whether keys belong to what has the focus: a field takes all of them, a tick box none but Space. */
export function isTyping(target) {
  if (!(target instanceof Element)) return false;
  if (target.closest("textarea, select, [contenteditable]")) return true;
  const input = target.closest("input");
  return input !== null && input.type !== "checkbox" && input.type !== "radio";
}

// A digit by what it writes, else by where it lies: on a French keyboard the upper row writes digits with
// Shift only. On the keypad without NumLock the key is a movement and no digit.
function digitOf(event) {
  if (!event.shiftKey && event.key in DIGITS) return event.key;
  const place = /^Digit([0129])$/.exec(event.code);
  return place ? place[1] : null;
}

/** The action of a key press, or null. `strength` says whether "much better" can be said. */
export function actionOf(event, strength) {
  if (event.repeat || event.isComposing || event.defaultPrevented) return null;
  if (event.ctrlKey || event.altKey || event.metaKey || isTyping(event.target)) return null;
  const digit = digitOf(event);
  if (digit !== null && !event.shiftKey) return DIGITS[digit];
  if (digit !== null && strength && digit in MUCH) return MUCH[digit];
  if (event.shiftKey && event.key in DIGITS) return DIGITS[event.key];
  const letter = event.key.toLowerCase();
  return Object.hasOwn(LETTERS, letter) ? LETTERS[letter] : null;
}

/** A key held down on a button would press it again and again, pair after pair. */
export function isHeldPress(event) {
  return event.repeat && (event.key === "Enter" || event.key === " ") && event.target.closest?.("button") !== null;
}
