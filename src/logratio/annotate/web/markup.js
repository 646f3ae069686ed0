// Builds elements from the parse trees of the server. Every text goes in as a text node, so none can act.

const MAX_HEADING = 6;
// The page's own headings end at the third level.
const HEADING_SHIFT = 3;

export function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  if (options.class) made.className = options.class;
  if (options.title) made.title = options.title;
  made.append(...children);
  return made;
}

// Each paragraph runs as its first strong letter does. (`unicode-bidi: plaintext` does the same and takes
// Chromium ten seconds for a paragraph of a million characters.)
function block(name, ...children) {
  const made = element(name, {}, ...children);
  made.dir = "auto";
  return made;
}

const inside = (node) => (node.children ?? []).map(build);

const BUILDERS = {
  paragraph: (node) => block("p", ...inside(node)),
  heading: (node) => block(`h${Math.min(MAX_HEADING, node.level + HEADING_SHIFT)}`, ...inside(node)),
  list: (node) => {
    const list = element(node.ordered ? "ol" : "ul", {}, ...inside(node));
    if (node.ordered) list.start = node.start ?? 1;
    return list;
  },
  item: (node) => element("li", {}, ...inside(node)),
  quote: (node) => element("blockquote", {}, ...inside(node)),
  code: (node) => {
    const language = node.language ? [element("p", { class: "language" }, node.language)] : [];
    const code = element("pre", { class: "scrolls" }, element("code", {}, node.text));
    return element("div", { class: "code" }, ...language, code);
  },
  table: (node) => {
    const [head, ...rows] = node.children.map((row) => row.children);
    const header = element("thead", {}, element("tr", {}, ...head.map((one) => cell(one, "th"))));
    const body = rows.map((row) => element("tr", {}, ...row.map((one) => cell(one, "td"))));
    return element("div", { class: "table scrolls" }, element("table", {}, header, element("tbody", {}, ...body)));
  },
  rule: () => element("hr"),
  bold: (node) => element("strong", {}, ...inside(node)),
  italic: (node) => element("em", {}, ...inside(node)),
  inline_code: (node) => element("code", {}, node.text),
  break: () => element("br"),
  text: (node) => document.createTextNode(node.text),
};

function cell(node, name) {
  const made = block(name, ...inside(node));
  if (node.align) made.className = `to-${node.align}`;
  if (name === "th") made.scope = "col";
  return made;
}

function build(node) {
  const builder = Object.hasOwn(BUILDERS, node.kind) ? BUILDERS[node.kind] : BUILDERS.text;
  return builder(node);
}

/** The readable view of a tree. */
export function readable(tree) {
  return tree.map(build);
}

/** The raw view: the text as it is, and a badge with the name of what does not show. */
export function rawView(runs) {
  const pieces = runs.map((run) =>
    run.kind === "mark" ? element("span", { class: "mark", title: run.code }, run.name) : run.text,
  );
  return [element("pre", { class: "raw" }, ...pieces)];
}

/** Whether a text holds what does not show and is not usual in honest text. */
export const holdsUnseen = (runs) => runs.some((run) => run.kind === "mark" && !run.expected);

/** Boxes that scroll can be reached by keyboard while they do scroll, and are no stop otherwise. */
export function settleScrolling(root, label = "Text that scrolls") {
  for (const box of root.querySelectorAll(".scrolls")) {
    const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (scrolls) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", label);
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
}
