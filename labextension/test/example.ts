import example from "../schema/pool_state.json";
import type { Block, PoolState } from "../src/protocol";

/** The example that Python's tests hold against a real pool; a copy, with changes. */
export function snapshot(changes: Partial<PoolState> = {}): PoolState {
  return { ...structuredClone(example as PoolState), ...changes };
}

export function block(changes: Partial<Block>): Block {
  return {
    id: "x",
    kind: "cell",
    worker: 1,
    queued: 0,
    started: 0,
    ended: null,
    outcome: null,
    code: "1 + 1",
    session: null,
    cell: null,
    error: null,
    peak: null,
    ...changes,
  };
}
