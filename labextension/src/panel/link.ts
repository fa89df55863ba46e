/** One kernel's pools, as the kernel tells of them, and what it is asked for. */

import { type Kernel, KernelMessage } from "@jupyterlab/services";
import { type ISignal, Signal } from "@lumino/signaling";
import {
  type Block,
  type Command,
  isHello,
  isNotice,
  isPoolList,
  isPoolState,
  type Order,
  type PoolState,
  VERSION,
} from "../protocol";

/** A kernel without the extension never answers: after so many milliseconds that is what it is. */
export const PATIENCE = 3000;

/**
 * What is known of a kernel: nothing yet; it is asked; it does not answer; it speaks another
 * version; it is there.
 */
export type Standing = "unknown" | "asking" | "silent" | "mismatch" | "there";

export type Change =
  | { kind: "standing" }
  | { kind: "list" }
  | { kind: "state"; state: PoolState }
  | { kind: "notice"; pool: string; text: string };

interface Answer {
  status?: string;
  evalue?: string;
}

export class KernelLink {
  /** The latest state of each pool. */
  readonly states = new Map<string, PoolState>();
  pools: string[] = [];
  standing: Standing = "unknown";
  /** The protocol's version that the kernel speaks. */
  version = VERSION as number;
  /** The pool that can be started, and how many workers it would get. */
  startable = { name: "default", size: 0 };
  private readonly changes = new Signal<this, Change>(this);
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** The kernel has restarted and is to be greeted when it is up. */
  private again = false;
  /** The kernel's session, another one after each restart; empty: not heard of. */
  private session = "";
  /** A cell has spoken of the extension, which somebody has asked for and not found. */
  private loading = false;
  private disposed = false;

  constructor(readonly kernel: Kernel.IKernelConnection) {
    kernel.iopubMessage.connect(this.heard, this);
    kernel.statusChanged.connect(this.statusChanged, this);
    kernel.connectionStatusChanged.connect(this.connectionChanged, this);
    kernel.disposed.connect(this.dispose, this);
  }

  get changed(): ISignal<this, Change> {
    return this.changes;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    clearTimeout(this.timer);
    Signal.clearData(this);
  }

  /** Each pool's sessions: the pool's name and theirs. */
  sessions(): [string, string][] {
    return [...this.states.values()].flatMap(({ pool, sessions }) =>
      (sessions ?? []).map(({ id }): [string, string] => [pool, id]),
    );
  }

  /** Each pool's errors, the latest first. */
  errors(): [string, Block][] {
    return [...this.states.values()].flatMap(({ pool, errors }) =>
      [...(errors ?? [])].reverse().map((block): [string, Block] => [pool, block]),
    );
  }

  /**
   * Ask the kernel whether it has the extension; if so, it tells everything from now on. Resolved
   * when it has answered, or will not.
   */
  async greet(): Promise<void> {
    if (this.disposed || this.kernel.isDisposed || this.kernel.status === "dead") return;
    if (this.standing !== "there") this.stand("asking");
    clearTimeout(this.timer);
    const patience = new Promise<void>((resolve) => {
      this.timer = setTimeout(() => {
        if (this.standing === "asking") this.stand("silent");
        resolve();
      }, PATIENCE);
    });
    const answer = this.request("pool_hello", { v: VERSION }).then(
      (content) => {
        clearTimeout(this.timer);
        if (this.disposed || !isHello(content)) return;
        this.startable = { name: content.default, size: content.size };
        if (this.speaks(content.v)) {
          this.list(content.pools);
          this.stand("there");
        }
      },
      () => {
        // The connection is gone, or the kernel: whatever comes next is told by its status.
      },
    );
    await Promise.race([patience, answer]);
  }

  /** Ask for something to be done to a pool; rejected with the kernel's reason. */
  async order(pool: string, command: Command): Promise<void> {
    const order: Order = { v: VERSION, pool, command };
    const content = (await this.request("pool_command", { ...order })) as Answer;
    if (content.status !== "ok") throw new Error(content.evalue ?? "The kernel has refused.");
  }

  private async request(type: string, content: Record<string, unknown>): Promise<unknown> {
    const message = KernelMessage.createMessage({
      // Not one of Jupyter's own: the control channel carries any.
      msgType: type as "debug_request",
      channel: "control",
      session: this.kernel.clientId,
      username: this.kernel.username,
      content: content as unknown as KernelMessage.IDebugRequestMsg["content"],
    });
    const future = this.kernel.sendControlMessage(message, true);
    const reply = await future.done;
    return reply.content;
  }

  private heard(_: unknown, message: KernelMessage.IIOPubMessage): void {
    const type: string = message.header.msg_type;
    const content: unknown = message.content;
    this.hearSession(message);
    if (type === "pool_state") {
      this.tell(content);
    } else if (type === "pool_list" && isPoolList(content)) {
      if (!this.speaks(content.v)) return;
      this.list(content.pools);
      if (this.standing !== "there" && this.standing !== "asking") void this.greet();
    } else if (type === "pool_notice" && isNotice(content)) {
      this.changes.emit({ kind: "notice", pool: content.pool, text: content.text });
    } else if (type === "execute_input" && ["asking", "silent"].includes(this.standing)) {
      const { code } = message.content as { code?: string };
      this.loading ||= code?.includes("jupyter_pool") ?? false;
    } else if (this.loading && KernelMessage.isStatusMsg(message)) {
      const parent = message.parent_header as { msg_type?: string };
      if (message.content.execution_state !== "idle" || parent.msg_type !== "execute_request")
        return;
      this.loading = false;
      void this.greet();
    }
  }

  /** Of a restart in another window JupyterLab tells nothing: the kernel speaks in a new session. */
  private hearSession(message: KernelMessage.IIOPubMessage): void {
    const { session } = message.header;
    // Not the server, which tells of restarts and deaths in sessions of its own.
    const lives = ["starting", "busy", "idle"];
    if (KernelMessage.isStatusMsg(message) && !lives.includes(message.content.execution_state))
      return;
    const known = this.standing !== "unknown";
    if (this.session !== "" && this.session !== session) this.forget();
    this.session = session;
    if (known && this.standing === "unknown") void this.greet();
  }

  private forget(): void {
    clearTimeout(this.timer);
    this.session = "";
    this.loading = false;
    this.list([]);
    this.stand("unknown");
  }

  private tell(content: unknown): void {
    const { v } = content as { v?: unknown };
    if (typeof v === "number" && !this.speaks(v)) return;
    if (!isPoolState(content)) return;
    // These are told now and then: they stay as they were.
    const before = this.states.get(content.pool);
    const kept = {
      errors: content.errors ?? before?.errors ?? null,
      sessions: content.sessions ?? before?.sessions ?? null,
    };
    this.states.set(content.pool, { ...content, ...kept });
    this.changes.emit({ kind: "state", state: content });
  }

  private speaks(version: number): boolean {
    this.version = version;
    if (version === VERSION) return true;
    this.stand("mismatch");
    return false;
  }

  private list(pools: string[]): void {
    for (const name of this.states.keys()) if (!pools.includes(name)) this.states.delete(name);
    if (pools.join("\n") === this.pools.join("\n")) return;
    this.pools = pools;
    this.changes.emit({ kind: "list" });
  }

  private stand(standing: Standing): void {
    if (this.standing === standing) return;
    this.standing = standing;
    this.changes.emit({ kind: "standing" });
  }

  private statusChanged(_: unknown, status: Kernel.Status): void {
    if (["restarting", "autorestarting", "dead", "terminating"].includes(status)) {
      this.again ||= this.standing !== "unknown";
      this.forget();
    } else if (this.again && (status === "idle" || status === "busy")) {
      this.again = false;
      void this.greet();
    }
  }

  private connectionChanged(_: unknown, status: Kernel.ConnectionStatus): void {
    // What was told meanwhile is lost.
    if (status === "connected" && this.standing === "there") void this.greet();
  }
}
