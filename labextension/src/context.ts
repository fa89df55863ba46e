/** What all parts of a view share. */

import type { Cells } from "./cells";
import type { PoolModel } from "./model";
import type { Command } from "./protocol";
import type { Words } from "./words";

export interface Context {
  model: PoolModel;
  words: Words;
  cells: Cells;
  /** Ask the kernel for something. */
  send: (command: Command) => void;
  /** This page's clock, in seconds. */
  clock: () => number;
}
