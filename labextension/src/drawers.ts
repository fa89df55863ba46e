/** What is looked at now and then, closed until then: errors, sessions, statistics. */

import type { Context } from "./context";
import { attribute, button, copy, el, show, text } from "./dom";
import type { Block, Distribution, Session } from "./protocol";
import { clock, firstLine } from "./words";

class Drawer {
  readonly element = el("details", "jpm-drawer");
  readonly body = el("div", "jpm-drawer-body");
  private readonly title = el("span", "");
  private key = "";

  constructor(private readonly fill: () => Node[]) {
    this.element.append(el("summary", "", {}, this.title), this.body);
    this.element.addEventListener("toggle", () => {
      if (this.element.open) this.refill();
      else this.body.replaceChildren();
    });
  }

  /** `key` changes when the content does. */
  update(title: string, key: string, shown = true): void {
    text(this.title, title);
    show(this.element, shown);
    if (key === this.key) return;
    this.key = key;
    if (this.element.open) this.refill();
  }

  private refill(): void {
    this.body.replaceChildren(...this.fill());
  }
}

export class Drawers {
  readonly element = el("div", "jpm-drawers");
  private readonly errors: Drawer;
  private readonly sessions: Drawer;
  private readonly stats: Drawer;

  constructor(private readonly context: Context) {
    const { model } = context;
    this.errors = new Drawer(() => [...model.errors].reverse().map((one) => this.errorRow(one)));
    this.sessions = new Drawer(() => [this.sessionTable(model.sessions)]);
    this.stats = new Drawer(() => this.statistics());
    this.element.append(this.errors.element, this.sessions.element, this.stats.element);
  }

  update(): void {
    const { model, words } = this.context;
    const { trans } = words;
    const { errors, sessions, stats, state } = model;
    const failed = state?.error_count ?? 0;
    this.errors.update(trans.__("Errors (%1)", failed), `${failed} ${errors.length}`, failed > 0);
    attribute(this.errors.element, "data-bad", failed > 0);
    const active = sessions.reduce((sum, session) => sum + session.requests, 0);
    this.sessions.update(
      trans.__("Sessions (%1)", sessions.length),
      `${sessions.length} ${active}`,
      sessions.length > 0,
    );
    this.stats.update(
      trans.__("Stats"),
      JSON.stringify(stats),
      stats !== null && stats.runs.count > 0,
    );
    show(this.element, failed > 0 || sessions.length > 0 || (stats?.runs.count ?? 0) > 0);
  }

  private errorRow(block: Block): HTMLElement {
    const { words } = this.context;
    const { trans } = words;
    const error = block.error ?? words.outcome(block.outcome);
    const everything = `${error}\n\n${block.code}`;
    const copying = button(
      "jpm-button jpm-small",
      trans.__("Copy this error"),
      trans.__("Copy"),
      () => {
        void copy(copying, everything, trans);
      },
    );
    return el(
      "div",
      "jpm-error-row",
      { "data-error": everything, "data-cell": block.cell ?? undefined },
      el("span", "jpm-when", {}, clock(block.ended ?? block.queued)),
      el(
        "span",
        "jpm-what",
        { title: error },
        el("b", "", {}, firstLine(error) || words.outcome(block.outcome)),
        el("code", "", {}, firstLine(block.code)),
      ),
      copying,
    );
  }

  private sessionTable(sessions: Session[]): HTMLElement {
    const { model, words } = this.context;
    const { trans } = words;
    const now = model.updatedAt;
    return table(
      [
        trans.__("session"),
        trans.__("requests"),
        trans.__("failed"),
        trans.__("busy"),
        trans.__("last"),
        "",
      ],
      sessions.map((session) => [
        session.id,
        String(session.requests),
        String(session.failures),
        words.duration(session.busy_time),
        words.ago(now - session.last_activity),
        this.ending(session.id),
      ]),
    );
  }

  private ending(session: string): HTMLElement {
    const { send, words } = this.context;
    const { trans } = words;
    const label = trans.__("End session %1", session);
    const end = button("jpm-button jpm-small", label, trans.__("End"), () => {
      send({ type: "end_session", session });
    });
    end.dataset.session = session;
    return end;
  }

  private statistics(): Node[] {
    const { model, words } = this.context;
    const { trans } = words;
    const { stats } = model;
    if (stats === null) return [];
    const row = (name: string, spread: Distribution) => [
      name,
      ...[spread.p50, spread.p95, spread.p99, spread.max].map((one) => words.duration(one)),
    ];
    const times = table(
      ["", "p50", "p95", "p99", trans.__("max")],
      [row(trans.__("waited"), stats.waits), row(trans.__("ran"), stats.runs)],
    );
    const started = stats.workers_started;
    const facts = [
      trans.__("up %1", words.duration(stats.uptime)),
      listed(stats.requests, (name) => words.outcome(name)),
      trans.__("longest queue %1", stats.queue_high_water),
      trans._n("%1 worker started", "%1 workers started", started),
      counted(stats.workers_lost, (n, causes) => trans.__("%1 lost (%2)", n, causes)),
      counted(stats.workers_killed, (n, causes) => trans.__("%1 killed (%2)", n, causes)),
      counted(stats.workers_recycled, (n, causes) => trans.__("%1 recycled (%2)", n, causes)),
    ];
    return [times, el("p", "jpm-note", {}, facts.filter(Boolean).join(" · "))];
  }
}

/** `3 done, 1 failed` */
function listed(numbers: Record<string, number>, word: (name: string) => string): string {
  return Object.entries(numbers)
    .map(([name, n]) => `${n} ${word(name)}`)
    .join(", ");
}

/** The sum of some numbers with what they are of; nothing where there are none. */
function counted(
  numbers: Record<string, number>,
  say: (sum: number, causes: string) => string,
): string {
  const all = Object.values(numbers);
  if (all.length === 0) return "";
  const sum = all.reduce((total, n) => total + n, 0);
  // The kernel's own words.
  return say(
    sum,
    listed(numbers, (cause) => cause.replaceAll("_", " ")),
  );
}

function table(headers: string[], rows: (string | Node)[][]): HTMLElement {
  const cells = (tag: "th" | "td", row: (string | Node)[]) =>
    el(
      "tr",
      "",
      {},
      // An empty header heads nothing.
      ...row.map((cell) =>
        el(cell === "" ? "td" : tag, "", tag === "th" && cell !== "" ? { scope: "col" } : {}, cell),
      ),
    );
  return el(
    "table",
    "jpm-table",
    {},
    el("thead", "", {}, cells("th", headers)),
    el("tbody", "", {}, ...rows.map((row) => cells("td", row))),
  );
}
