// What was decided and not acknowledged: kept in this browser, sent again until the server has written it.

const STORAGE_NAME = "logratio.outbox";
const FIRST_WAIT = 500;
const LONGEST_WAIT = 8000;
const TIMEOUT = 15000;
// The session is over, the server is slow, busy or broken: the same request may be taken later.
const TRY_AGAIN = new Set([401, 408, 425, 429]);

/** 128 random bits as hexadecimal digits; `crypto.randomUUID` is missing where a page is not loopback. */
export function makeNonce() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function storageIsOpen() {
  try {
    localStorage.getItem(STORAGE_NAME);
    return true;
  } catch {
    return false;
  }
}

/** One request. Throws where no answer came; gives `{status, body}` otherwise. */
async function post(path, body) {
  const reply = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    credentials: "same-origin",
    redirect: "error",
    signal: AbortSignal.timeout(TIMEOUT),
  });
  const answer = await reply.json().catch(() => null);
  // A cut-off answer may follow a verdict that stands: asking again tells, since the nonce is the same.
  if (reply.ok && answer === null) throw new TypeError("the answer was cut off");
  return { status: reply.status, body: answer ?? {} };
}

/** What is wrong with an answer. */
export function kindOf(reply) {
  if (reply.status === 401) return reply.body.code === "OtherPerson" ? "other" : "session";
  return reply.status === 0 ? "silent" : "broken";
}

/** Sends until there is an answer; `trouble` hears of every failure, and of the end of it with null. */
export class Courier {
  #hurry = () => {};

  constructor(trouble, person) {
    this.trouble = trouble;
    this.person = person;
    for (const name of ["online", "focus"]) window.addEventListener(name, () => this.hurry());
    window.addEventListener("storage", () => this.hurry());
  }

  /** Try again now instead of after the wait. */
  hurry() {
    this.#hurry();
  }

  /** One try, which says whose page this is; status 0 where no answer came. Nobody hears of it. */
  once(path, body) {
    return post(path, { ...body, person: this.person }).catch(() => ({ status: 0, body: {} }));
  }

  async ask(path, body) {
    let wait = FIRST_WAIT;
    for (;;) {
      const reply = await this.once(path, body);
      if (reply.status !== 0 && reply.status < 500 && !TRY_AGAIN.has(reply.status)) {
        this.trouble(null);
        return reply;
      }
      this.trouble(kindOf(reply));
      await this.#pause(wait);
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }

  #pause(wait) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Entries `{nonce, person, path, body}` in the order they were decided. */
export class Outbox {
  #memory = [];
  #stored = storageIsOpen();

  /** `person` is who this page belongs to: what another person decided in this browser is not sent as theirs. */
  constructor(courier, person) {
    this.courier = courier;
    this.person = person;
  }

  put(path, body) {
    const entry = { nonce: makeNonce(), person: this.person, path, body };
    this.#write([...this.#read(), entry]);
    return entry;
  }

  remove(entry) {
    this.#write(this.#read().filter((one) => one.nonce !== entry.nonce));
  }

  waiting() {
    return this.#read().filter((entry) => entry.person === this.person);
  }

  ofOthers() {
    return this.#read().filter((entry) => entry.person !== this.person);
  }

  /** Send all; gives the answer to the last. `refused(entry, reply)` decides about what is not taken. */
  async flush(refused) {
    let last = null;
    for (let [entry] = this.waiting(); entry; [entry] = this.waiting()) {
      const reply = await this.courier.ask(entry.path, { ...entry.body, nonce: entry.nonce });
      const settled = reply.status === 200 || reply.status === 409;
      if (settled || (await refused(entry, reply))) this.remove(entry);
      last = { entry, ...reply };
    }
    return last;
  }

  // Where the browser gives no storage, or has no room left, entries last as long as the page.
  #read() {
    if (!this.#stored) return this.#memory;
    try {
      const kept = JSON.parse(localStorage.getItem(STORAGE_NAME) ?? "[]");
      return Array.isArray(kept) ? kept : [];
    } catch {
      return [];
    }
  }

  #write(entries) {
    this.#memory = entries;
    try {
      localStorage.setItem(STORAGE_NAME, JSON.stringify(entries));
      this.#stored = true;
    } catch {
      this.#stored = false;
    }
  }
}
