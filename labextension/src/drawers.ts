/** What is looked at now and then, closed until then: errors, sessions, statistics. */

import { attribute, button, copy, el, show, text } from "./dom";
import { ago, clock, count, duration, firstLine, outcome } from "./format";
import type { PoolModel } from "./model";
import type { Block, Command, Distribution, Session } from "./protocol";

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

  constructor(
    private readonly model: PoolModel,
    private readonly send: (command: Command) => void,
  ) {
    this.errors = new Drawer(() => [...model.errors].reverse().map(errorRow));
    this.sessions = new Drawer(() => [this.sessionTable(model.sessions)]);
    this.stats = new Drawer(() => this.statistics());
    this.element.append(this.errors.element, this.sessions.element, this.stats.element);
  }

  update(): void {
    const { errors, sessions, stats, state } = this.model;
    const failed = state?.error_count ?? 0;
    this.errors.update(`Errors (${failed})`, `${failed} ${errors.length}`, failed > 0);
    attribute(this.errors.element, "data-bad", failed > 0);
    const active = sessions.reduce((sum, session) => sum + session.requests, 0);
    this.sessions.update(
      `Sessions (${sessions.length})`,
      `${sessions.length} ${active}`,
      sessions.length > 0,
    );
    this.stats.update("Stats", JSON.stringify(stats), stats !== null && stats.runs.count > 0);
    show(this.element, failed > 0 || sessions.length > 0 || (stats?.runs.count ?? 0) > 0);
  }

  openErrors(): void {
    this.errors.element.open = true;
  }

  private sessionTable(sessions: Session[]): HTMLElement {
    const now = this.model.updatedAt;
    return table(
      ["session", "requests", "failed", "busy", "last", ""],
      sessions.map((session) => [
        session.id,
        String(session.requests),
        String(session.failures),
        duration(session.busy_time),
        ago(now - session.last_activity),
        this.ending(session.id),
      ]),
    );
  }

  private ending(session: string): HTMLElement {
    const end = button("jpm-button jpm-small", `End session ${session}`, "End", () => {
      this.send({ type: "end_session", session });
    });
    end.dataset.session = session;
    return end;
  }

  private statistics(): Node[] {
    const stats = this.model.stats;
    if (stats === null) return [];
    const row = (name: string, spread: Distribution) => [
      name,
      ...[spread.p50, spread.p95, spread.p99, spread.max].map(duration),
    ];
    const times = table(
      ["", "p50", "p95", "p99", "max"],
      [row("waited", stats.waits), row("ran", stats.runs)],
    );
    const facts = [
      `up ${duration(stats.uptime)}`,
      Object.entries(stats.requests)
        .map(([name, n]) => `${n} ${outcome(name)}`)
        .join(", "),
      `longest queue ${stats.queue_high_water}`,
      `${count(stats.workers_started, "worker")} started`,
      ...causes("lost", stats.workers_lost),
      ...causes("killed", stats.workers_killed),
      ...causes("recycled", stats.workers_recycled),
    ];
    return [times, el("p", "jpm-note", {}, facts.filter(Boolean).join(" · "))];
  }
}

function causes(what: string, numbers: Record<string, number>): string[] {
  const all = Object.entries(numbers);
  if (all.length === 0) return [];
  const sum = all.reduce((total, [, n]) => total + n, 0);
  return [
    `${sum} ${what} (${all.map(([cause, n]) => `${n} ${cause.replaceAll("_", " ")}`).join(", ")})`,
  ];
}

function errorRow(block: Block): HTMLElement {
  const error = block.error ?? outcome(block.outcome);
  const copying = button("jpm-button jpm-small", "Copy this error", "Copy", () => {
    void copy(copying, `${error}\n\n${block.code}`);
  });
  return el(
    "div",
    "jpm-error-row",
    { "data-error": `${error}\n\n${block.code}` },
    el("span", "jpm-when", {}, clock(block.ended ?? block.queued)),
    el(
      "span",
      "jpm-what",
      { title: error },
      el("b", "", {}, firstLine(error) || outcome(block.outcome)),
      el("code", "", {}, firstLine(block.code)),
    ),
    copying,
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
