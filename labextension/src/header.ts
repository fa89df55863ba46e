/** The first line: what pool, how it is, its figures, and what can be done with it. */

import { attribute, button, el, show, text } from "./dom";
import { ago, clock, count, duration, rate } from "./format";
import { glyph, type Mark, setGlyph } from "./glyphs";
import type { Phase, PoolModel } from "./model";
import type { Command } from "./protocol";

const WORDS: Record<Phase, [string, Mark]> = {
  none: ["None", "stopping"],
  new: ["Not started", "spare"],
  starting: ["Starting", "starting"],
  idle: ["Ready", "idle"],
  busy: ["Busy", "busy"],
  saturated: ["Saturated", "busy"],
  degraded: ["Degraded", "warn"],
  closing: ["Closing", "stopping"],
  silent: ["Silent", "warn"],
};

/** How long a click on "Stop" waits for the second one, in milliseconds. */
const DOUBT = 4000;

export class Header {
  readonly element = el("div", "jpm-header");
  private readonly name = el("span", "jpm-name");
  private readonly mark = glyph();
  private readonly word = el("span", "jpm-word");
  private readonly facts = el("span", "jpm-summary");
  private readonly sizing = el("span", "jpm-sizing", { role: "group", "aria-label": "Workers" });
  private readonly fewer: HTMLButtonElement;
  private readonly more: HTMLButtonElement;
  private readonly size = el("span", "jpm-size");
  private readonly menu = el("div", "jpm jpm-menu", { popover: "auto" });
  private readonly menuButton: HTMLButtonElement;
  private readonly stop: HTMLButtonElement;
  private doubt: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly model: PoolModel,
    private readonly send: (command: Command) => void,
    private readonly asked: boolean,
  ) {
    this.fewer = button("jpm-icon", "One worker fewer", "−", () => {
      this.resize(-1);
    });
    this.more = button("jpm-icon", "One worker more", "+", () => {
      this.resize(1);
    });
    this.sizing.append(this.fewer, this.size, this.more);
    this.menuButton = button("jpm-icon", "Drain or stop the pool", "⋯", () => {
      this.openMenu();
    });
    attribute(this.menuButton, "aria-haspopup", "true");
    const drain = button("jpm-item", "Replace every worker by a fresh one", "Drain", () => {
      this.send({ type: "drain" });
      this.menu.hidePopover();
    });
    drain.append(el("small", "", {}, "fresh workers, each when it is free"));
    this.stop = button("jpm-item", "Cancel everything and stop the pool", "", () => {
      this.askToStop();
    });
    this.menu.append(drain, this.stop);
    this.menu.addEventListener("toggle", () => {
      this.calm();
    });
    this.calm();
    this.element.append(
      this.name,
      el("span", "jpm-state", {}, this.mark, this.word),
      this.facts,
      this.sizing,
      this.menuButton,
      this.menu,
    );
  }

  dispose(): void {
    clearTimeout(this.doubt);
  }

  update(local: number): void {
    const state = this.model.state;
    if (state === null) return;
    const phase = this.model.phase(local);
    const [word, mark] = WORDS[phase];
    text(this.name, state.pool);
    text(this.word, word);
    setGlyph(this.mark, mark);
    attribute(this.element, "data-phase", phase);
    text(this.facts, this.summary(phase, local));
    text(this.size, String(state.size));
    attribute(this.size, "title", `${count(state.size, "worker")}, ${state.overflow} overflow`);
    this.fewer.disabled = state.size <= 1;
    const orders = phase !== "none" && phase !== "closing";
    show(this.sizing, orders);
    show(this.menuButton, orders);
  }

  private summary(phase: Phase, local: number): string {
    const { state, taken } = this.model;
    if (state === null) return "";
    const now = this.model.now(local);
    if (phase === "silent") {
      return `Last update ${clock(state.now)}. The kernel is not responding.`;
    }
    if (phase === "starting") {
      const since = Math.min(...state.workers.map((worker) => worker.since));
      return `${count(state.workers.length, "worker")}… ${duration(now - since)}`;
    }
    if (phase === "degraded") return state.reason ?? "workers do not start";
    if (phase === "new") return `starts ${count(state.size, "worker")} on first use`;
    if (phase === "idle" && state.rate === 0) {
      if (state.last_ended === null) return "No request yet.";
      return `Last request ${ago(now - state.last_ended)}.`;
    }
    const parts = [`${taken} of ${state.size} busy`];
    if (state.waiting > 0) {
      const oldest =
        state.waiting_since === null ? "" : `, oldest ${duration(now - state.waiting_since)}`;
      parts.push(`${state.waiting} waiting${oldest}`);
    }
    if (state.rate > 0) parts.push(rate(state.rate));
    return parts.join(" · ");
  }

  private resize(step: number): void {
    const size = (this.model.state?.size ?? 0) + step;
    if (size >= 1) this.send({ type: "resize", size });
  }

  private openMenu(): void {
    const place = this.menuButton.getBoundingClientRect();
    this.menu.togglePopover();
    this.menu.style.top = `${place.bottom + 2}px`;
    this.menu.style.left = `${Math.max(8, place.right - this.menu.offsetWidth)}px`;
    this.menu.querySelector("button")?.focus();
  }

  /** The first click asks, the second one stops. */
  private askToStop(): void {
    if (this.doubt === undefined && !this.asked) {
      this.stop.replaceChildren(
        "Stop: really?",
        el("small", "", {}, "click again; what runs is cancelled"),
      );
      this.stop.classList.add("jpm-bad");
      this.doubt = setTimeout(() => {
        this.calm();
      }, DOUBT);
      return;
    }
    this.calm();
    this.send({ type: "stop" });
    this.menu.hidePopover();
  }

  private calm(): void {
    clearTimeout(this.doubt);
    this.doubt = undefined;
    this.stop.classList.remove("jpm-bad");
    this.stop.replaceChildren("Stop", el("small", "", {}, "cancel everything, end the workers"));
  }
}
