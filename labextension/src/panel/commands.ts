/** The commands: in the palette, and on rows of the panel by the context menu. */

import type { JupyterFrontEnd } from "@jupyterlab/application";
import { Clipboard, type ICommandPalette, InputDialog, Notification } from "@jupyterlab/apputils";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { Block, Command, PoolState } from "../protocol";
import type { Follower } from "./follow";
import type { KernelLink } from "./link";
import type { Notebooks } from "./notebooks";
import type { Orders } from "./orders";

export const OPEN = "jupyter-pool:open";

const ARGUMENTS = {
  type: "object",
  properties: {
    here: {
      type: "boolean",
      description: "Whether it is for what the context menu was opened on.",
    },
  },
};

interface Choice<T> {
  label: string;
  value: T;
}

/** Let somebody choose, if there is a choice; null: nothing to choose from, or they would not. */
async function choose<T>(title: string, choices: Choice<T>[]): Promise<T | null> {
  if (choices.length < 2) return choices[0]?.value ?? null;
  const { value } = await InputDialog.getItem({ title, items: choices.map(({ label }) => label) });
  return choices.find(({ label }) => label === value)?.value ?? null;
}

/** A request as one line. */
const line = (code: string) => code.split("\n", 1)[0]?.slice(0, 60) ?? "";

export class Commands {
  constructor(
    private readonly app: JupyterFrontEnd,
    private readonly follower: Follower,
    private readonly orders: Orders,
    private readonly notebooks: Notebooks,
    private readonly trans: TranslationBundle,
    private readonly openPanel: () => void,
  ) {}

  register(palette: ICommandPalette | null): void {
    const { trans } = this;
    const pools = () => this.states.length > 0;
    this.add(palette, OPEN, trans.__("Show Kernel Pools"), () => {
      this.openPanel();
    });
    this.add(
      palette,
      "jupyter-pool:start",
      trans.__("Start the Default Pool"),
      () => this.start(),
      () => this.mayStart,
    );
    this.add(
      palette,
      "jupyter-pool:resize",
      trans.__("Resize a Pool…"),
      () => this.resize(),
      pools,
    );
    this.add(
      palette,
      "jupyter-pool:drain",
      trans.__("Drain a Pool: Replace Its Workers"),
      () => this.toPool({ type: "drain" }),
      pools,
    );
    this.add(
      palette,
      "jupyter-pool:stop",
      trans.__("Stop a Pool…"),
      () => this.toPool({ type: "stop" }),
      pools,
    );
    this.add(
      palette,
      "jupyter-pool:interrupt-worker",
      trans.__("Interrupt a Worker…"),
      (here) => this.interrupt(here),
      () => this.states.some((state) => state.workers.some(({ request }) => request !== null)),
    );
    this.add(
      palette,
      "jupyter-pool:restart-worker",
      trans.__("Restart a Worker…"),
      (here) => this.restart(here),
      () => this.states.some((state) => state.workers.length > 0),
    );
    this.add(
      palette,
      "jupyter-pool:cancel-request",
      trans.__("Cancel a Request…"),
      () => this.cancel(),
      () => this.requests().length > 0,
    );
    this.add(
      palette,
      "jupyter-pool:end-session",
      trans.__("End a Session…"),
      () => this.endSession(),
      () => (this.link?.sessions().length ?? 0) > 0,
    );
    this.add(
      palette,
      "jupyter-pool:go-to-cell",
      trans.__("Go to the Cell of a Request…"),
      (here) => this.goToCell(here),
      () => this.withCells().length > 0,
    );
    this.add(
      palette,
      "jupyter-pool:copy-error",
      trans.__("Copy an Error…"),
      (here) => this.copyError(here),
      () => (this.link?.errors().length ?? 0) > 0,
    );
  }

  private add(
    palette: ICommandPalette | null,
    id: string,
    label: string,
    execute: (here: boolean) => unknown,
    isEnabled: () => boolean = () => true,
  ): void {
    this.app.commands.addCommand(id, {
      label,
      execute: ({ here }) => execute(here === true),
      isEnabled,
      describedBy: { args: ARGUMENTS },
    });
    palette?.addItem({ command: id, category: this.trans.__("Kernel Pools") });
  }

  private get link(): KernelLink | null {
    return this.follower.current?.link ?? null;
  }

  private get states(): PoolState[] {
    return [...(this.link?.states.values() ?? [])];
  }

  /**
   * What the context menu was opened on: an attribute's value, and the pool it belongs to; null
   * where the command does not come from there.
   */
  private hit(
    here: boolean,
    name: "worker" | "request" | "error" | "cell",
  ): { pool: string; value: string } | null {
    if (!here) return null; // a menu that was open earlier is remembered
    const node = this.app.contextMenuHitTest((element) => element.dataset[name] !== undefined);
    const value = node?.dataset[name];
    const pool = node?.closest<HTMLElement>("[data-pool]")?.dataset.pool;
    return value === undefined || pool === undefined ? null : { pool, value };
  }

  private async give(pool: string, command: Command): Promise<void> {
    if (this.link !== null) await this.orders.give(this.link, pool, command);
  }

  /** Nobody may have asked yet whether the kernel could. */
  private get mayStart(): boolean {
    const { link } = this;
    if (link?.standing === "unknown") return true;
    return link?.standing === "there" && !link.pools.includes(link.startable.name);
  }

  private async start(): Promise<void> {
    const { link } = this;
    if (link?.standing === "unknown") await link.greet();
    if (link !== null && this.mayStart) await this.give(link.startable.name, { type: "start" });
    else this.openPanel(); // it says why not, and what to do
  }

  private pool(): Promise<PoolState | null> {
    const choices = this.states.map((state) => ({ label: state.pool, value: state }));
    return choose(this.trans.__("Which pool?"), choices);
  }

  private async toPool(command: Command): Promise<void> {
    const state = await this.pool();
    if (state !== null) await this.give(state.pool, command);
  }

  private async resize(): Promise<void> {
    const state = await this.pool();
    if (state === null) return;
    const { value } = await InputDialog.getNumber({
      title: this.trans.__("Workers of pool “%1”", state.pool),
      value: state.size,
    });
    if (value !== null) await this.give(state.pool, { type: "resize", size: Math.round(value) });
  }

  private async worker(busy: boolean): Promise<{ pool: string; worker: number } | null> {
    const choices = this.states.flatMap(({ pool, workers }) =>
      workers
        .filter(({ request }) => !busy || request !== null)
        .map(({ id, state }) => ({
          label: this.trans.__("%1: worker %2 (%3)", pool, id, state),
          value: { pool, worker: id },
        })),
    );
    return choose(this.trans.__("Which worker?"), choices);
  }

  private async interrupt(here: boolean): Promise<void> {
    const hit = this.hit(here, "request");
    if (hit !== null) return this.give(hit.pool, { type: "cancel", request: hit.value });
    const found = await this.worker(true);
    const state = this.states.find(({ pool }) => pool === found?.pool);
    const request = state?.workers.find(({ id }) => id === found?.worker)?.request;
    if (state && request) await this.give(state.pool, { type: "cancel", request });
  }

  private async restart(here: boolean): Promise<void> {
    const hit = this.hit(here, "worker");
    const found = hit === null ? null : { pool: hit.pool, worker: Number(hit.value) };
    const { pool, worker } = found ?? (await this.worker(false)) ?? {};
    if (pool !== undefined && worker !== undefined)
      await this.give(pool, { type: "restart", worker });
  }

  /** What runs and what waits. */
  private unfinished(): [string, Block][] {
    return this.states.flatMap(({ pool, blocks, waiters }) =>
      [...blocks.filter(({ ended }) => ended === null), ...waiters].map(
        (block): [string, Block] => [pool, block],
      ),
    );
  }

  private requests(): Choice<{ pool: string; request: string }>[] {
    return this.unfinished().map(([pool, { id, code }]) => ({
      label: `${pool}: ${line(code) || id} (${id})`,
      value: { pool, request: id },
    }));
  }

  private async cancel(): Promise<void> {
    const found = await choose(this.trans.__("Which request?"), this.requests());
    if (found !== null) await this.give(found.pool, { type: "cancel", request: found.request });
  }

  private async endSession(): Promise<void> {
    const choices = [...(this.link?.sessions() ?? [])].map(([pool, session]) => ({
      label: `${pool}: ${session}`,
      value: { pool, session },
    }));
    const found = await choose(this.trans.__("Which session?"), choices);
    if (found !== null)
      await this.give(found.pool, { type: "end_session", session: found.session });
  }

  /** What runs, waits or has failed, and comes from a cell. */
  private withCells(): Choice<string>[] {
    return [...this.unfinished(), ...(this.link?.errors() ?? [])].flatMap(([pool, block]) =>
      block.cell
        ? [{ label: `${pool}: ${line(block.code) || block.id} (${block.id})`, value: block.cell }]
        : [],
    );
  }

  private async goToCell(here: boolean): Promise<void> {
    const { link, trans } = this;
    const cell =
      this.hit(here, "cell")?.value ?? (await choose(trans.__("Which request?"), this.withCells()));
    if (cell === null || link === null) return;
    if (this.notebooks.ofKernel(link.kernel.id)?.show(cell)) return;
    Notification.warning(trans.__("The cell is gone"), { autoClose: 5000 });
  }

  private async copyError(here: boolean): Promise<void> {
    const hit = this.hit(here, "error");
    const found =
      hit?.value ??
      (await choose(
        this.trans.__("Which error?"),
        (this.link?.errors() ?? []).map(([pool, block]) => ({
          label: `${pool}: ${line(block.error ?? "")} (${block.id})`,
          value: `${block.error ?? ""}\n\n${block.code}`,
        })),
      ));
    if (found !== null) Clipboard.copyToSystem(found);
  }
}
