/** Beside the lanes: how each worker is, and what can be done with it. */

import type { Context } from "./context";
import { attribute, button, el, text } from "./dom";
import { glyph, markOf, setGlyph } from "./glyphs";
import { type Lane, TAKEN } from "./model";

export class Gutter {
  readonly element: HTMLElement;
  private readonly rows: Row[] = [];

  constructor(private readonly context: Context) {
    const { trans } = context.words;
    this.element = el("div", "jpm-gutter", { role: "list", "aria-label": trans.__("Workers") });
  }

  /** A row for each of these lanes. */
  update(lanes: readonly Lane[], now: number): void {
    while (this.rows.length > lanes.length) this.rows.pop()?.element.remove();
    while (this.rows.length < lanes.length) {
      const row = new Row(this.context, this.rows.length);
      this.rows.push(row);
      this.element.append(row.element);
    }
    const sizes = lanes.map((lane) => lane.worker?.memory ?? 0);
    const most = this.context.model.state?.memory_limit ?? Math.max(100e6, ...sizes) * 1.25;
    lanes.forEach((lane, index) => this.rows[index]?.update(lane, most, now));
  }
}

/** One lane's. It stays the same element when its worker is replaced. */
class Row {
  readonly element = el("div", "jpm-row", { role: "listitem" });
  private readonly glyph = glyph();
  private readonly number = el("span", "jpm-number");
  private readonly used = el("i", "");
  private readonly words = el("span", "jpm-words");
  private readonly interrupt: HTMLButtonElement;

  constructor(
    private readonly context: Context,
    index: number,
  ) {
    const { model, send, words } = context;
    const { trans } = words;
    const worker = () => model.lanes[index]?.worker ?? null;
    this.interrupt = button("jpm-icon", trans.__("Interrupt what runs"), "■", () => {
      const request = worker()?.request;
      if (request) send({ type: "cancel", request });
    });
    const restart = button("jpm-icon", trans.__("Restart the worker"), "↻", () => {
      const id = worker()?.id;
      if (id !== undefined) send({ type: "restart", worker: id });
    });
    // With the keyboard the same is reached in a request's details.
    this.interrupt.tabIndex = restart.tabIndex = -1;
    this.element.append(
      this.glyph,
      this.number,
      el("span", "jpm-memory", {}, this.used),
      this.words,
      el("span", "jpm-row-actions", {}, this.interrupt, restart),
    );
    this.element.addEventListener("animationend", () => {
      this.element.classList.remove("jpm-dying");
    });
  }

  /** `most` is the memory, in bytes, that fills the bar. */
  update(lane: Lane, most: number, now: number): void {
    const { element } = this;
    const { worker, died } = lane;
    const wasDead = element.dataset.died !== undefined;
    attribute(element, "data-died", died);
    if (died && !wasDead) element.classList.add("jpm-dying");
    const request = worker?.request ?? undefined;
    const block = request === undefined ? undefined : this.context.model.blocks.get(request);
    attribute(element, "data-state", worker?.state ?? "gone");
    attribute(element, "data-worker", worker?.id);
    attribute(element, "data-request", request);
    attribute(element, "data-cell", block?.cell ?? undefined);
    setGlyph(this.glyph, markOf(worker?.state, died));
    text(this.number, worker ? String(worker.id) : "");
    const share = Math.min(1, (worker?.memory ?? 0) / most);
    this.used.style.width = `${Math.round(100 * share)}%`;
    text(this.words, this.short(lane, now));
    this.interrupt.disabled = request === undefined;
    const label = this.long(lane, now);
    attribute(element, "aria-label", label);
    attribute(element, "title", label);
  }

  /** In as little room as there is. */
  private short({ worker, died }: Lane, now: number): string {
    const { words } = this.context;
    if (worker === null) return died ? words.trans.__("died") : "";
    if (worker.state === "busy") return words.elapsed(now - worker.since);
    return worker.state === "idle" ? "" : words.worker(worker.state);
  }

  private long(lane: Lane, now: number): string {
    const { words } = this.context;
    const { trans } = words;
    const { worker } = lane;
    if (worker === null) return this.short(lane, now);
    const state = words.worker(worker.state);
    const what = TAKEN.has(worker.state)
      ? trans.__("Worker %1, %2 for %3", worker.id, state, words.elapsed(now - worker.since))
      : trans.__("Worker %1, %2", worker.id, state);
    return worker.memory ? trans.__("%1, %2", what, words.size(worker.memory)) : what;
  }
}
