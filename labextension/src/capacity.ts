/** The capacity bar: a cell for each slot, overflow outlined, a tick where it ends, then who waits. */

import { attribute, el } from "./dom";
import { count } from "./format";
import type { PoolModel } from "./model";

const MOST_WAITERS = 20;
/** From so many slots on, cells would be too thin to count: the bar is of one piece. */
const MOST_CELLS = 64;

export class Capacity {
  readonly element = el("div", "jpm-capacity", { role: "img" });
  private key = "";

  update(model: PoolModel): void {
    const state = model.state;
    if (state === null) return;
    const { size, overflow, waiting } = state;
    const taken = model.taken;
    const starting = state.counts.starting ?? 0;
    const key = [
      size,
      overflow,
      taken,
      starting,
      Math.min(waiting, MOST_WAITERS + 1),
      waiting,
    ].join();
    if (key === this.key) return;
    this.key = key;
    const slots = size + overflow;
    const label = `${taken} of ${count(slots, "slot")} taken, ${waiting} waiting`;
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
