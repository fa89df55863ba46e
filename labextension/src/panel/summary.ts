/** The pools of a kernel in a few words, for the status bar. */

import type { TranslationBundle } from "@jupyterlab/translation";
import { TAKEN } from "../model";
import type { PoolState } from "../protocol";

/** `pool 3/4 busy, 2 queued` */
export function summary(states: PoolState[], trans: TranslationBundle): string {
  if (states.length === 0) return "";
  const sum = (of: (state: PoolState) => number) =>
    states.reduce((total, state) => total + of(state), 0);
  const taken = sum(({ workers }) => workers.filter(({ state }) => TAKEN.has(state)).length);
  const waiting = sum((state) => state.waiting);
  const size = sum((state) => state.size);
  const name = states.length === 1 ? trans.__("pool") : trans.__("pools");
  const busy = trans.__("%1 %2/%3 busy", name, taken, size);
  return waiting > 0 ? trans.__("%1, %2 queued", busy, waiting) : busy;
}
