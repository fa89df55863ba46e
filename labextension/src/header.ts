/** The first line: what pool, how it is, its figures, and what can be done with it. */

import type { Context } from "./context";
import { attribute, button, el, show, text } from "./dom";
import { glyph, type Mark, setGlyph } from "./glyphs";
import type { Phase } from "./model";
import { clock } from "./words";

const MARKS: Record<Phase, Mark> = {
  none: "stopping",
  new: "spare",
  starting: "starting",
  idle: "idle",
  busy: "busy",
  saturated: "busy",
  degraded: "warn",
  closing: "stopping",
  silent: "warn",
};

/** How long a click on "Stop" waits for the second one, in milliseconds. */
const DOUBT = 4000;

export class Header {
  readonly element = el("div", "jpm-header");
  private readonly name = el("span", "jpm-name");
  private readonly mark = glyph();
  private readonly word = el("span", "jpm-word");
  private readonly facts = el("span", "jpm-summary");
  private readonly sizing: HTMLElement;
  private readonly fewer: HTMLButtonElement;
  private readonly more: HTMLButtonElement;
  private readonly size = el("span", "jpm-size");
  private readonly menu = el("div", "jpm jpm-menu", { popover: "auto" });
  private readonly menuButton: HTMLButtonElement;
  private readonly stop: HTMLButtonElement;
  private doubt: ReturnType<typeof setTimeout> | undefined;

  /** With `asked` whoever gets the orders asks before they do harm. */
  constructor(
    private readonly context: Context,
    private readonly asked: boolean,
  ) {
    const { trans } = context.words;
    this.fewer = button("jpm-icon", trans.__("One worker fewer"), "−", () => {
      this.resize(-1);
    });
    this.more = button("jpm-icon", trans.__("One worker more"), "+", () => {
      this.resize(1);
    });
    this.sizing = el("span", "jpm-sizing", { role: "group", "aria-label": trans.__("Workers") });
    this.sizing.append(this.fewer, this.size, this.more);
    this.menuButton = button("jpm-icon", trans.__("Drain or stop the pool"), "⋯", () => {
      this.openMenu();
    });
    attribute(this.menuButton, "aria-haspopup", "true");
    const draining = trans.__("Drain: replace every worker by a fresh one");
    const drain = button("jpm-item", draining, trans.__("Drain"), () => {
      context.send({ type: "drain" });
      this.menu.hidePopover();
    });
    drain.append(el("small", "", {}, trans.__("fresh workers, each when it is free")));
    this.stop = button("jpm-item", trans.__("Stop the pool, cancel everything"), "", () => {
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
    const { model, words } = this.context;
    const { state } = model;
    if (state === null) return;
    const { trans } = words;
    const phase = model.phase(local);
    text(this.name, state.pool);
    text(this.word, words.phase(phase));
    setGlyph(this.mark, MARKS[phase]);
    attribute(this.element, "data-phase", phase);
    text(this.facts, this.summary(phase, local));
    text(this.size, String(state.size));
    const sizes = trans.__("%1, %2 overflow", words.workers(state.size), state.overflow);
    attribute(this.size, "title", sizes);
    this.fewer.disabled = state.size <= 1;
    const orders = phase !== "none" && phase !== "closing";
    show(this.sizing, orders);
    show(this.menuButton, orders);
  }

  private summary(phase: Phase, local: number): string {
    const { model, words } = this.context;
    const { state, taken } = model;
    if (state === null) return "";
    const { trans } = words;
    const now = model.now(local);
    switch (phase) {
      case "silent":
        return trans.__("Last update %1. The kernel is not responding.", clock(state.now));
      case "starting": {
        const since = Math.min(...state.workers.map((worker) => worker.since));
        const workers = words.workers(state.workers.length);
        return trans.__("%1… %2", workers, words.duration(now - since));
      }
      case "degraded":
        return state.reason ?? trans.__("workers do not start");
      case "new":
        return trans.__("starts %1 on first use", words.workers(state.size));
      case "idle":
        if (state.rate > 0) break;
        return state.last_ended === null
          ? trans.__("No request yet.")
          : trans.__("Last request %1.", words.ago(now - state.last_ended));
    }
    const parts = [trans.__("%1 of %2 busy", taken, state.size)];
    if (state.waiting > 0) {
      const { waiting, waiting_since: since } = state;
      parts.push(
        since === null
          ? trans.__("%1 waiting", waiting)
          : trans.__("%1 waiting, oldest %2", waiting, words.duration(now - since)),
      );
    }
    if (state.rate > 0) parts.push(words.rate(state.rate));
    return parts.join(" · ");
  }

  private resize(step: number): void {
    const size = (this.context.model.state?.size ?? 0) + step;
    if (size >= 1) this.context.send({ type: "resize", size });
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
    const { trans } = this.context.words;
    if (this.doubt === undefined && !this.asked) {
      this.stop.replaceChildren(
        trans.__("Stop: really?"),
        el("small", "", {}, trans.__("click again; what runs is cancelled")),
      );
      this.stop.classList.add("jpm-bad");
      this.doubt = setTimeout(() => {
        this.calm();
      }, DOUBT);
      return;
    }
    this.calm();
    this.context.send({ type: "stop" });
    this.menu.hidePopover();
  }

  private calm(): void {
    clearTimeout(this.doubt);
    this.doubt = undefined;
    this.stop.classList.remove("jpm-bad");
    const { trans } = this.context.words;
    this.stop.replaceChildren(
      trans.__("Stop"),
      el("small", "", {}, trans.__("cancel everything, end the workers")),
    );
  }
}
