/** The capacity bar: a cell for each slot, overflow outlined, a tick where it ends, then who waits. */

import type { Context } from "./context";
import { attribute, el } from "./dom";

const MOST_WAITERS = 20;
/** From so many slots on, cells would be too thin to count: the bar is of one piece. */
const MOST_CELLS = 64;

export class Capacity {
  readonly element = el("div", "jpm-capacity", { role: "img" });
  private key = "";

  constructor(private readonly context: Context) {}

  update(): void {
    const { model, words } = this.context;
    const { state } = model;
    if (state === null) return;
    const { size, overflow, waiting } = state;
    const taken = model.taken;
    const starting = state.counts.starting ?? 0;
    const key = [size, overflow, taken, starting, waiting].join();
    if (key === this.key) return;
    this.key = key;
    const slots = size + overflow;
    const { trans } = words;
    const label = trans._n(
      "%2 of %1 slot taken, %3 waiting",
      "%2 of %1 slots taken, %3 waiting",
      slots,
      taken,
      waiting,
    );
    attribute(this.element, "aria-label", label);
    attribute(this.element, "title", label);
    const bar = el("div", "jpm-slots");
    if (slots <= MOST_CELLS) {
      for (let slot = 0; slot < slots; slot++) {
        const taking = slot < taken ? " jpm-taken" : slot < taken + starting ? " jpm-coming" : "";
        bar.append(el("i", `jpm-slot${slot >= size ? " jpm-overflow" : ""}${taking}`));
      }
    } else {
      const whole = el("i", "jpm-slot jpm-whole");
      const filled = el("b", "jpm-taken");
      filled.style.width = `${(100 * taken) / slots}%`;
      whole.append(filled);
      bar.append(whole);
    }
    const queue = el("div", "jpm-queue");
    for (let n = 0; n < Math.min(waiting, MOST_WAITERS); n++) queue.append(el("i", "jpm-waiter"));
    if (waiting > MOST_WAITERS) {
      queue.append(el("span", "jpm-more", {}, `+${waiting - MOST_WAITERS}`));
    }
    const tick = el("i", "jpm-tick");
    this.element.replaceChildren(bar, tick, queue);
    this.element.classList.toggle("jpm-saturated", waiting > 0);
  }
}
