/**
 * What a kernel tells about a pool, and what a view asks for.
 *
 * The same as `jupyter_pool/engine/activity.py` and `notebook/feed.py` write it; the example in
 * `schema/pool_state.json` is held against both by their tests. Points in time are Unix times in
 * seconds by the kernel's clock, sizes are bytes.
 */

/** See `onlookers.VERSION` there for when it goes up. */
export const VERSION = 1;

export type WorkerState =
  | "starting"
  | "setting up"
  | "standby"
  | "idle"
  | "busy"
  | "leased"
  | "interrupting"
  | "resetting"
  | "stopping";

export interface Worker {
  id: number;
  state: WorkerState;
  since: number;
  overflow: boolean;
  /** The id of the request or lease that has it. */
  request: string | null;
  served: number;
  memory: number | null;
}

/** A request: on a worker, waiting for one, or ended. */
export interface Block {
  id: string;
  kind: "cell" | "call" | "lease";
  worker: number | null;
  queued: number;
  started: number | null;
  /** Null: it has not ended. */
  ended: number | null;
  /** How it ended: "ok", "failed", "operation_timeout", "cancelled", "worker_died", … */
  outcome: string | null;
  /** Its first lines, or the name of its function. */
  code: string;
  session: string | null;
  /** The id of the notebook cell that has caused it, if that is known. */
  cell?: string | null;
  error: string | null;
  /** The most memory that its worker was seen to have while it ran. */
  peak: number | null;
}

export interface Job {
  id: string;
  name: string;
  kind: "background" | "each" | "map";
  state: "waiting" | "running";
  done: number;
  /** Null: there is nothing to count, or nobody knows yet how many there are. */
  total: number | null;
  started: number;
  /** Estimated seconds that it still takes. */
  left: number | null;
  /** False: a cell waits for it, so the notebook's stop button ends it and orders come too late. */
  cancellable: boolean;
}

export interface Session {
  id: string;
  first_seen: number;
  last_activity: number;
  requests: number;
  failures: number;
  busy_time: number;
  last_worker: number | null;
}

export interface Distribution {
  count: number;
  mean: number;
  p50: number;
  p95: number;
  p99: number;
  max: number;
}

export interface Stats {
  uptime: number;
  requests: Record<string, number>;
  queue_high_water: number;
  waits: Distribution;
  runs: Distribution;
  workers_started: number;
  workers_lost: Record<string, number>;
  workers_killed: Record<string, number>;
  workers_recycled: Record<string, number>;
}

export interface PoolState {
  type: "pool_state";
  v: typeof VERSION;
  seq: number;
  /** Whether it stands for itself; else its ended blocks are those that came lately. */
  full: boolean;
  /** Whether the next one comes within about a second even if nothing happens. */
  lively: boolean;
  now: number;
  pool: string;
  /** The names of all pools of the kernel. */
  pools: string[];
  state: "none" | "new" | "running" | "degraded" | "closing" | "closed";
  /** Why it is degraded. */
  reason: string | null;
  /** What a worker wrote that did not start. */
  log: string | null;
  size: number;
  overflow: number;
  memory_limit: number | null;
  counts: Record<string, number>;
  waiting: number;
  waiting_since: number | null;
  /** Requests that ended per second, lately. */
  rate: number;
  last_ended: number | null;
  workers: Worker[];
  blocks: Block[];
  /** Those that wait, the oldest first; not all if they are many. */
  waiters: Block[];
  jobs: Job[];
  error_count: number;
  /** Null in these three: as before. */
  errors: Block[] | null;
  sessions: Session[] | null;
  stats: Stats | null;
}

export type Command =
  | { type: "open"; view: string }
  | { type: "close"; view: string }
  | { type: "start" }
  | { type: "resize"; size: number }
  | { type: "drain" }
  | { type: "stop" }
  | { type: "restart"; worker: number }
  | { type: "cancel"; request: string }
  | { type: "cancel_job"; job: string }
  | { type: "end_session"; session: string };

/** The kernel did not do what it was asked for. */
export interface Refusal {
  type: "refused";
  text: string;
}

export function isPoolState(value: unknown): value is PoolState {
  const state = value as Partial<PoolState> | null | undefined;
  return state?.type === "pool_state" && state.v === VERSION && Array.isArray(state.workers);
}

export function isRefusal(value: unknown): value is Refusal {
  const message = value as Partial<Refusal> | null | undefined;
  return message?.type === "refused" && typeof message.text === "string";
}

// -- the panel: messages of its own, where the widget has a model -----------------------------------

/** The answer to `pool_hello`, on control. */
export interface Hello {
  status: "ok";
  v: number;
  pools: string[];
  /** The pool that the magics use, and that can be started from the panel. */
  default: string;
  /** How many workers it would get. */
  size: number;
}

/** `pool_list`, on iopub: which pools there are. */
export interface PoolList {
  v: number;
  pools: string[];
}

/** `pool_notice`, on iopub: something that was accepted has failed later. */
export interface Notice {
  v: number;
  pool: string;
  text: string;
}

/** What `pool_command` asks for, on control. */
export interface Order {
  v: typeof VERSION;
  pool: string;
  command: Command;
}

export function isHello(value: unknown): value is Hello {
  const hello = value as Partial<Hello> | null | undefined;
  return hello?.status === "ok" && typeof hello.v === "number" && Array.isArray(hello.pools);
}

export function isPoolList(value: unknown): value is PoolList {
  const list = value as Partial<PoolList> | null | undefined;
  return typeof list?.v === "number" && Array.isArray(list.pools);
}

export function isNotice(value: unknown): value is Notice {
  const notice = value as Partial<Notice> | null | undefined;
  return typeof notice?.text === "string" && typeof notice.pool === "string";
}
