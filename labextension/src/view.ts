/**
 * The monitor: one component without a framework, for the notebook's widget and for panels.
 *
 *     const monitor = createMonitor(host, { state, send });
 *     monitor.update(nextState);
 *     monitor.dispose();
 */

import { Capacity } from "./capacity";
import { Card } from "./card";
import { cellsAround } from "./cells";
import type { Context } from "./context";
import { attribute, button, copy, el, show, text } from "./dom";
import { Drawers } from "./drawers";
import { Header } from "./header";
import { Jobs } from "./jobs";
import { Lanes } from "./lanes";
import { DEATHS, type Phase, PoolModel } from "./model";
import type { Command, PoolState } from "./protocol";
import { english, type Trans } from "./trans";
import { Words } from "./words";

export interface MonitorModel {
  /** The first snapshot; null: nothing is known yet. */
  state: PoolState | null;
  /** Ask the kernel for something. */
  send: (command: Command) => void;
  options?: Options;
}

export interface Options {
  /** How far back the lanes reach, in seconds. */
  history?: number;
  /** At least so many milliseconds between two pictures. */
  interval?: number;
  /** Whoever gets the commands asks before they do harm; else stopping needs a second click. */
  asks?: boolean;
  /** The language; English by default. */
  trans?: Trans;
}

export interface Monitor {
  update(state: PoolState): void;
  /** Show in words that something was not done. */
  refuse(reason: string): void;
  dispose(): void;
}

/** Screen readers are told at most so often, in milliseconds. */
const TELL = 5000;
/** Times that are told in minutes are told anew so often, in milliseconds. */
const MINUTE = 60_000;
/** A refusal is shown for so long, in milliseconds. */
const NOTICE = 8000;

export function createMonitor(
  host: HTMLElement,
  { state, send, options = {} }: MonitorModel,
): Monitor {
  return new View(host, state, send, options);
}

const seconds = (): number => Date.now() / 1000;

class View implements Monitor {
  private readonly root = el("div", "jpm", {
    role: "region",
    // JupyterLab's own use of Enter, Delete and the arrows ends here.
    "data-lm-suppress-shortcuts": "true",
  });
  private readonly context: Context;
  private readonly card: Card;
  private readonly header: Header;
  private readonly capacity: Capacity;
  private readonly lanes: Lanes;
  private readonly jobs: Jobs;
  private readonly drawers: Drawers;
  private readonly empty = el("div", "jpm-empty");
  private readonly trouble = el("div", "jpm-trouble", { role: "alert" });
  private readonly notice = el("div", "jpm-notice", { role: "status" });
  private readonly live = el("div", "jpm-hidden", { "aria-live": "polite" });
  private clockTimer: ReturnType<typeof setTimeout> | undefined;
  private noticeTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly interval: number;
  private renderTimer: ReturnType<typeof setTimeout> | undefined;
  private renderedAt = -Infinity;
  private emptyKey = "";
  private troubleKey = "";
  private told: { phase: Phase | null; errors: number; at: number } = {
    phase: null,
    errors: 0,
    at: -Infinity,
  };

  constructor(
    host: HTMLElement,
    state: PoolState | null,
    send: (command: Command) => void,
    { history, interval = 0, asks = false, trans = english }: Options,
  ) {
    const model = new PoolModel(history);
    const cells = cellsAround(this.root);
    this.context = { model, words: new Words(trans), cells, send, clock: seconds };
    this.interval = interval;
    this.card = new Card(this.context);
    this.header = new Header(this.context, asks);
    this.capacity = new Capacity(this.context);
    this.lanes = new Lanes(this.context, this.card, () => {
      this.render(true);
    });
    this.jobs = new Jobs(this.context);
    this.drawers = new Drawers(this.context);
    this.root.append(
      this.header.element,
      this.capacity.element,
      this.trouble,
      this.empty,
      this.lanes.element,
      this.jobs.element,
      this.drawers.element,
      this.notice,
      this.live,
      this.card.element,
    );
    show(this.notice, false);
    show(this.trouble, false);
    host.append(this.root);
    document.addEventListener("pointerdown", this.clickElsewhere);
    if (state !== null) this.update(state);
    else this.render();
  }

  update(state: PoolState): void {
    this.context.model.apply(state, seconds());
    if (this.renderTimer !== undefined) return; // it will be in the next picture
    const rest = this.interval - (Date.now() - this.renderedAt);
    if (rest <= 0) {
      this.render();
      return;
    }
    this.renderTimer = setTimeout(() => {
      this.render();
    }, rest);
  }

  refuse(reason: string): void {
    text(this.notice, reason);
    show(this.notice, true);
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => {
      show(this.notice, false);
    }, NOTICE);
  }

  dispose(): void {
    clearTimeout(this.clockTimer);
    clearTimeout(this.noticeTimer);
    clearTimeout(this.renderTimer);
    document.removeEventListener("pointerdown", this.clickElsewhere);
    this.card.close();
    this.header.dispose();
    this.lanes.dispose();
    this.root.remove();
  }

  /** Bring everything up to date; `force` as of `Picture.paint`. */
  private render(force = false): void {
    clearTimeout(this.renderTimer);
    this.renderTimer = undefined;
    this.renderedAt = Date.now();
    const local = seconds();
    const { model, words } = this.context;
    const { state } = model;
    const phase = model.phase(local);
    attribute(this.root, "data-phase", phase);
    attribute(this.root, "aria-label", words.trans.__("Pool %1", state?.pool ?? ""));
    const there = phase !== "none";
    for (const part of [this.header.element, this.capacity.element, this.lanes.element]) {
      show(part, there);
    }
    show(this.empty, !there);
    if (there) {
      this.header.update(local);
      this.capacity.update();
      this.lanes.render(force);
    } else {
      this.renderEmpty(state);
    }
    this.renderTrouble(state);
    this.jobs.update(model.now(local));
    this.drawers.update();
    this.tell(phase, local);
    this.goOn(local);
  }

  /** Elapsed times go on, and silence is noticed, without the kernel; until nothing changes. */
  private goOn(local: number): void {
    clearTimeout(this.clockTimer);
    const pause = this.changesAfter(local);
    if (pause === null) return;
    this.clockTimer = setTimeout(
      () => {
        // Where it cannot be seen this ends: the lanes hear of it when it is shown again.
        if (this.root.isConnected && this.root.offsetParent !== null) this.render();
      },
      Math.max(pause, this.interval),
    );
  }

  /** When the picture will be another one although nothing is heard, in milliseconds; null: never. */
  private changesAfter(local: number): number | null {
    const { model } = this.context;
    const { state } = model;
    if (state === null || model.silent(local)) return null;
    if (state.lively) return 1000;
    if (state.last_ended === null) return null;
    // What has ended leaves the picture; then only "3 min ago" changes.
    return model.now(local) - state.last_ended <= this.lanes.seconds ? 1000 : MINUTE;
  }

  private renderEmpty(state: PoolState | null): void {
    const key = state === null ? "waiting" : `${state.pool} ${state.size} ${state.pools.join()}`;
    if (key === this.emptyKey) return;
    this.emptyKey = key;
    if (state === null) {
      this.empty.replaceChildren(this.context.words.trans.__("Waiting for the kernel…"));
      return;
    }
    const { send, words } = this.context;
    const { trans } = words;
    const others = state.pools.filter((name) => name !== state.pool);
    const parts: Node[] = [
      el(
        "span",
        "",
        {},
        state.pool === "default"
          ? trans.__("No pool in this kernel.")
          : trans.__("No pool named “%1”.", state.pool),
      ),
    ];
    const note = (words: string) => el("span", "jpm-note", {}, words);
    if (others.length > 0) {
      parts.push(note(trans.__("There are: %1.", others.join(", "))));
    } else {
      const label = trans._n("Start %1 worker", "Start %1 workers", state.size);
      const start = button("jpm-button jpm-primary", trans.__("Start a pool"), label, () => {
        send({ type: "start" });
      });
      const magic = "%%pool_exec";
      const copying = button("jpm-button jpm-mono", trans.__("Copy the magic"), magic, () => {
        void copy(copying, `${magic}\n`, trans);
      });
      parts.push(start, note(trans.__("or begin a cell with")), copying);
    }
    this.empty.replaceChildren(...parts);
  }

  /** Workers do not start: say why, and show what they wrote. */
  private renderTrouble(state: PoolState | null): void {
    const key = state?.state === "degraded" ? `${state.reason ?? ""}\n${state.log ?? ""}` : "";
    if (key === this.troubleKey) return;
    this.troubleKey = key;
    show(this.trouble, key !== "");
    if (key === "" || state === null) return;
    const { trans } = this.context.words;
    const parts: Node[] = [el("b", "", {}, state.reason ?? trans.__("Workers do not start."))];
    if (state.log) {
      const log = el("details", "jpm-log", {}, el("summary", "", {}, trans.__("Show log")));
      log.append(el("pre", "", {}, state.log));
      parts.push(log);
    }
    this.trouble.replaceChildren(...parts);
  }

  /** What a screen reader says: that the state has changed or something failed, and not too often. */
  private tell(phase: Phase, local: number): void {
    const { model, words } = this.context;
    const { trans } = words;
    const { state } = model;
    const errors = state?.error_count ?? 0;
    if (local * 1000 - this.told.at < TELL) return;
    const changed = phase !== this.told.phase;
    const failed = errors - this.told.errors;
    if (!changed && failed <= 0) return;
    const parts: string[] = [];
    if (changed) parts.push(trans.__("Pool %1: %2", state?.pool ?? "", words.phase(phase)));
    if (failed > 0) {
      parts.push(trans._n("%1 request failed", "%1 requests failed", failed));
      const outcomes = model.errors.slice(-failed).map(({ outcome }) => outcome ?? "");
      if (outcomes.some((outcome) => DEATHS.has(outcome))) parts.push(trans.__("A worker died"));
    }
    if (this.told.phase !== null) text(this.live, parts.join(". "));
    this.told = { phase, errors, at: this.told.phase === null ? -Infinity : local * 1000 };
  }

  private readonly clickElsewhere = (event: Event): void => {
    const target = event.target as Node;
    if (this.card.pinned && !this.card.element.contains(target)) this.card.close();
  };
}
