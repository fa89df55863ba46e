/**
 * The monitor: one component without a framework, for the notebook's widget and for panels.
 *
 *     const monitor = createMonitor(host, { state, send });
 *     monitor.update(nextState);
 *     monitor.dispose();
 */

import { Capacity } from "./capacity";
import { Card } from "./card";
import { attribute, button, copy, el, show, text } from "./dom";
import { Drawers } from "./drawers";
import { count } from "./format";
import { Header } from "./header";
import { Jobs } from "./jobs";
import { Lanes } from "./lanes";
import { DEATHS, type Phase, PoolModel } from "./model";
import type { Command, PoolState } from "./protocol";

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
}

export interface Monitor {
  update(state: PoolState): void;
  /** Show in words that something was not done. */
  refuse(reason: string): void;
  dispose(): void;
}

/** Screen readers are told at most so often, in milliseconds. */
const TELL = 5000;
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
  private readonly model: PoolModel;
  private readonly root = el("div", "jpm", {
    role: "region",
    // JupyterLab's own use of Enter, Delete and the arrows ends here.
    "data-lm-suppress-shortcuts": "true",
  });
  private readonly card: Card;
  private readonly header: Header;
  private readonly capacity = new Capacity();
  private readonly lanes: Lanes;
  private readonly jobs: Jobs;
  private readonly drawers: Drawers;
  private readonly empty = el("div", "jpm-empty");
  private readonly trouble = el("div", "jpm-trouble", { role: "alert" });
  private readonly notice = el("div", "jpm-notice", { role: "status" });
  private readonly live = el("div", "jpm-hidden", { "aria-live": "polite" });
  private readonly timer: ReturnType<typeof setInterval>;
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
    private readonly send: (command: Command) => void,
    { history, interval = 0, asks = false }: Options,
  ) {
    this.model = new PoolModel(history);
    this.interval = interval;
    this.card = new Card(send);
    this.header = new Header(this.model, send, asks);
    this.lanes = new Lanes(this.model, this.card, send, seconds);
    this.jobs = new Jobs(this.model, send);
    this.drawers = new Drawers(this.model, send);
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
    // Elapsed times go on, and silence is noticed, without the kernel.
    this.timer = setInterval(() => {
      this.tick();
    }, 1000);
    document.addEventListener("pointerdown", this.clickElsewhere);
    if (state !== null) this.update(state);
    else this.render();
  }

  update(state: PoolState): void {
    this.model.apply(state, seconds());
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
    clearInterval(this.timer);
    clearTimeout(this.noticeTimer);
    clearTimeout(this.renderTimer);
    document.removeEventListener("pointerdown", this.clickElsewhere);
    this.card.close();
    this.header.dispose();
    this.lanes.dispose();
    this.root.remove();
  }

  private tick(): void {
    if (!this.root.isConnected || this.root.offsetParent === null) return;
    this.render();
  }

  private render(): void {
    clearTimeout(this.renderTimer);
    this.renderTimer = undefined;
    this.renderedAt = Date.now();
    const local = seconds();
    const phase = this.model.phase(local);
    const { state } = this.model;
    attribute(this.root, "data-phase", phase);
    attribute(this.root, "aria-label", `Pool ${state?.pool ?? ""}`);
    const there = phase !== "none";
    for (const part of [this.header.element, this.capacity.element, this.lanes.element]) {
      show(part, there);
    }
    show(this.empty, !there);
    if (there) {
      this.header.update(local);
      this.capacity.update(this.model);
      this.lanes.render();
    } else {
      this.renderEmpty(state);
    }
    this.renderTrouble(state);
    this.jobs.update(this.model.now(local));
    this.drawers.update();
    this.tell(phase, local);
  }

  private renderEmpty(state: PoolState | null): void {
    const key = state === null ? "waiting" : `${state.pool} ${state.size} ${state.pools.join()}`;
    if (key === this.emptyKey) return;
    this.emptyKey = key;
    if (state === null) {
      this.empty.replaceChildren("Waiting for the kernel…");
      return;
    }
    const others = state.pools.filter((name) => name !== state.pool);
    const named =
      state.pool === "default" ? "No pool in this kernel." : `No pool named “${state.pool}”.`;
    const start = button(
      "jpm-button jpm-primary",
      "Start a pool",
      `Start ${count(state.size, "worker")}`,
      () => {
        this.send({ type: "start" });
      },
    );
    const magic = "%%pool_exec";
    const copying = button("jpm-button", "Copy the magic", magic, () => {
      void copy(copying, `${magic}\n`);
    });
    copying.classList.add("jpm-mono");
    const parts: Node[] = [el("span", "", {}, named)];
    if (others.length > 0)
      parts.push(el("span", "jpm-note", {}, `There are: ${others.join(", ")}.`));
    else parts.push(start, el("span", "jpm-note", {}, "or begin a cell with"), copying);
    this.empty.replaceChildren(...parts);
  }

  /** Workers do not start: say why, and show what they wrote. */
  private renderTrouble(state: PoolState | null): void {
    const key = state?.state === "degraded" ? `${state.reason ?? ""}\n${state.log ?? ""}` : "";
    if (key === this.troubleKey) return;
    this.troubleKey = key;
    show(this.trouble, key !== "");
    if (key === "" || state === null) return;
    const parts: Node[] = [el("b", "", {}, state.reason ?? "Workers do not start.")];
    if (state.log) {
      const log = el("details", "jpm-log", {}, el("summary", "", {}, "Show log"));
      log.append(el("pre", "", {}, state.log));
      parts.push(log);
    }
    this.trouble.replaceChildren(...parts);
  }

  /** What a screen reader says: that the state has changed or something failed, and not too often. */
  private tell(phase: Phase, local: number): void {
    const state = this.model.state;
    const errors = state?.error_count ?? 0;
    if (local * 1000 - this.told.at < TELL) return;
    const changed = phase !== this.told.phase;
    const failed = errors - this.told.errors;
    if (!changed && failed <= 0) return;
    const died =
      failed > 0 &&
      this.model.errors.slice(-failed).some(({ outcome }) => DEATHS.has(outcome ?? ""));
    const parts = [changed ? `Pool ${state?.pool ?? ""}: ${phase}` : ""];
    if (failed > 0)
      parts.push(`${count(failed, "request")} failed${died ? ", a worker died" : ""}`);
    if (this.told.phase !== null) text(this.live, parts.filter(Boolean).join(". "));
    this.told = { phase, errors, at: this.told.phase === null ? -Infinity : local * 1000 };
  }

  private readonly clickElsewhere = (event: Event): void => {
    const target = event.target as Node;
    if (this.card.pinned && !this.card.element.contains(target)) this.card.close();
  };
}
