/** What a view knows of a pool: the latest snapshot, and the history that earlier ones told. */

import type { Block, PoolState, Session, Stats, Worker } from "./protocol";

/** How far back the history reaches, in seconds, and how many blocks it holds at most. */
export const HISTORY = 300;
const MOST_BLOCKS = 20_000;
/** A lively kernel that says nothing for so long does not respond, in seconds. */
const SILENCE = 6;
/** A lane whose worker has gone without a successor stays for so long, in seconds. */
const VACANT = 4;

export const TAKEN: ReadonlySet<string> = new Set([
  "busy",
  "leased",
  "interrupting",
  "resetting",
  "setting up",
]);
export const DEATHS: ReadonlySet<string> = new Set([
  "worker_died",
  "memory_limit_exceeded",
  "protocol_error",
]);

/** A place for one worker and, when it is gone, its successor. */
export interface Lane {
  worker: Worker | null;
  /** When its last worker went. */
  vacatedAt: number | null;
  /** Its last worker died. */
  died: boolean;
}

export interface Sample {
  at: number;
  taken: number;
  waiting: number;
}

export type Phase =
  "none" | "new" | "starting" | "idle" | "busy" | "saturated" | "degraded" | "closing" | "silent";

export class PoolModel {
  state: PoolState | null = null;
  readonly blocks = new Map<string, Block>();
  readonly lanes: Lane[] = [];
  readonly samples: Sample[] = [];
  errors: Block[] = [];
  sessions: Session[] = [];
  stats: Stats | null = null;
  /** The blocks that the latest snapshot was the first to tell of. */
  private fresh: ReadonlySet<string> = new Set();
  private laneOfWorker = new Map<number, number>();
  private receivedAt = 0;
  private offset: number | null = null;

  constructor(readonly history = HISTORY) {}

  /** Take in a snapshot that arrived at `local`, in seconds by this page's clock. */
  apply(state: PoolState, local: number): void {
    if (this.state !== null && this.state.pool !== state.pool) this.forget();
    const first = this.state === null;
    const offset = state.now - local;
    // Messages are late at times and never early: the largest difference is the truest.
    this.offset = Math.max(offset, (this.offset ?? offset) - 0.01);
    this.state = state;
    this.receivedAt = local;
    this.errors = state.errors ?? this.errors;
    this.sessions = state.sessions ?? this.sessions;
    this.stats = state.stats ?? this.stats;
    const fresh = this.updateBlocks(state);
    this.fresh = first ? new Set() : fresh;
    this.updateLanes(state);
    this.samples.push({ at: state.now, taken: this.taken, waiting: state.waiting });
    while ((this.samples[1]?.at ?? Infinity) < state.now - this.history) this.samples.shift();
  }

  /** The kernel's time, where this page's clock says `local`. */
  now(local: number): number {
    return local + (this.offset ?? 0);
  }

  /** When the latest snapshot was made. */
  get updatedAt(): number {
    return this.state?.now ?? 0;
  }

  silent(local: number): boolean {
    return this.state?.lively === true && local - this.receivedAt > SILENCE;
  }

  get taken(): number {
    return this.state?.workers.filter((worker) => TAKEN.has(worker.state)).length ?? 0;
  }

  phase(local: number): Phase {
    const state = this.state;
    if (state === null || state.state === "none") return "none";
    if (this.silent(local)) return "silent";
    if (state.state === "new") return "new";
    if (state.state === "degraded") return "degraded";
    if (state.state === "closing" || state.state === "closed") return "closing";
    const { workers } = state;
    if (workers.length > 0 && workers.every((worker) => worker.state === "starting")) {
      return "starting";
    }
    if (state.waiting > 0) return "saturated";
    return this.taken > 0 ? "busy" : "idle";
  }

  /** The lane of a block, or undefined if it is gone. */
  laneOf(block: Block): number | undefined {
    return block.worker === null ? undefined : this.laneOfWorker.get(block.worker);
  }

  /** The blocks of a lane that a worker has or had, in the order they started. */
  inLane(lane: number): Block[] {
    return [...this.blocks.values()]
      .filter((block) => block.started !== null && this.laneOf(block) === lane)
      .sort((a, b) => (a.started ?? 0) - (b.started ?? 0));
  }

  /** The blocks that are new since the last picture, once. */
  takeFresh(): ReadonlySet<string> {
    const { fresh } = this;
    this.fresh = new Set();
    return fresh;
  }

  private forget(): void {
    this.blocks.clear();
    this.lanes.length = 0;
    this.laneOfWorker.clear();
    this.samples.length = 0;
    this.errors = [];
    this.sessions = [];
    this.stats = null;
  }

  /** Returns the ids of those that are new. */
  private updateBlocks(state: PoolState): Set<string> {
    const fresh = new Set(state.blocks.map(({ id }) => id).filter((id) => !this.blocks.has(id)));
    for (const [id, block] of this.blocks) {
      // What ran is told again while it runs; what ended too long ago is forgotten.
      if (block.ended === null || block.ended < state.now - this.history) this.blocks.delete(id);
    }
    for (const block of state.blocks) {
      // A new entry is the last one: the oldest are in front.
      if (block.ended !== null && this.blocks.has(block.id)) continue;
      this.blocks.delete(block.id);
      this.blocks.set(block.id, block);
    }
    for (const id of this.blocks.keys()) {
      if (this.blocks.size <= MOST_BLOCKS) break;
      this.blocks.delete(id);
    }
    return fresh;
  }

  private updateLanes(state: PoolState): void {
    const here = new Map(state.workers.map((worker) => [worker.id, worker]));
    for (const lane of this.lanes) {
      const before = lane.worker;
      if (before === null) continue;
      lane.worker = here.get(before.id) ?? null;
      if (lane.worker === null) {
        lane.vacatedAt = state.now;
        lane.died = this.hasDied(before, state);
      }
      here.delete(before.id);
    }
    for (const worker of here.values()) this.seat(worker);
    this.dropVacant(state);
  }

  /** Whether a worker that is gone took a request with it. */
  private hasDied(worker: Worker, state: PoolState): boolean {
    return state.blocks.some(
      (block) => block.worker === worker.id && block.outcome !== null && DEATHS.has(block.outcome),
    );
  }

  private seat(worker: Worker): void {
    let index = this.lanes.findIndex((lane) => lane.worker === null);
    if (index < 0) index = this.lanes.findIndex((lane) => lane.worker?.state === "stopping");
    if (index < 0) {
      index = this.lanes.push({ worker, vacatedAt: null, died: false }) - 1;
    } else {
      const lane = this.lanes[index];
      if (lane) Object.assign(lane, { worker, vacatedAt: null });
    }
    this.laneOfWorker.set(worker.id, index);
  }

  private dropVacant(state: PoolState): void {
    for (let index = this.lanes.length - 1; index >= 0; index--) {
      const lane = this.lanes[index];
      if (!lane) continue;
      if (lane.worker !== null) {
        if (lane.worker.state === "busy") lane.died = false; // its successor works
        continue;
      }
      const expected = index < state.size && state.state !== "closing";
      if (expected || state.now - (lane.vacatedAt ?? 0) < VACANT) continue;
      this.lanes.splice(index, 1);
      for (const [worker, at] of this.laneOfWorker) {
        if (at === index) this.laneOfWorker.delete(worker);
        else if (at > index) this.laneOfWorker.set(worker, at - 1);
      }
    }
  }
}
