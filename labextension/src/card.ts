/** What is known of one request: shown beside it on hover, with something to do on a click. */

import type { Context } from "./context";
import { attribute, button, copy, el, text } from "./dom";
import type { Block, Command } from "./protocol";
import { firstLine } from "./words";

export class Card {
  readonly element: HTMLElement;
  pinned = false;
  block: Block | null = null;

  constructor(private readonly context: Context) {
    const { trans } = context.words;
    this.element = el("div", "jpm jpm-card", {
      popover: "manual",
      role: "group",
      "aria-label": trans.__("Details of a request"),
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  /** Show a request at a place of the page; pinned, it stays and has buttons. */
  open(block: Block, x: number, y: number, now: number, pinned: boolean): void {
    if (this.pinned && !pinned) return;
    const same = this.block?.id === block.id && this.pinned === pinned;
    this.block = block;
    this.pinned = pinned;
    this.element.classList.toggle("jpm-pinned", pinned);
    if (!same || !pinned) this.fill(block, now);
    if (!this.isOpen()) this.element.showPopover();
    this.place(x, y);
  }

  close(): void {
    this.pinned = false;
    this.block = null;
    if (this.isOpen()) this.element.hidePopover();
  }

  isOpen(): boolean {
    return this.element.isConnected && this.element.matches(":popover-open");
  }

  /** Put the keyboard on the first thing that can be done. */
  focus(): void {
    this.element.querySelector<HTMLElement>("button:not(:disabled)")?.focus();
  }

  /** The same details as one line of text. */
  words(block: Block, now: number): string {
    const { words } = this.context;
    const parts = [firstLine(block.code) || words.kind(block.kind), words.outcome(block.outcome)];
    for (const [name, value] of this.facts(block, now)) parts.push(`${name} ${value}`);
    if (block.error) parts.push(firstLine(block.error));
    return parts.join(", ");
  }

  private fill(block: Block, now: number): void {
    const { words } = this.context;
    const code = el("pre", "jpm-code", {}, block.code || words.kind(block.kind));
    const list = el("dl", "jpm-facts");
    for (const [name, value] of this.facts(block, now)) {
      list.append(el("div", "", {}, el("dt", "", {}, name), el("dd", "", {}, value)));
    }
    const kind = block.outcome === null || block.outcome === "ok" ? "" : " jpm-bad";
    const head = el("div", `jpm-outcome${kind}`, {}, words.outcome(block.outcome));
    const parts: Node[] = [head, code, list];
    if (block.error)
      parts.push(el("pre", "jpm-error", {}, this.pinned ? block.error : cut(block.error)));
    if (this.pinned) parts.push(el("div", "jpm-actions", {}, ...this.actions(block)));
    this.element.replaceChildren(...parts);
  }

  private facts(block: Block, now: number): [string, string][] {
    const { words } = this.context;
    const { trans } = words;
    const found: [string, string][] = [];
    const { started, ended } = block;
    found.push([trans.__("waited"), words.duration((started ?? ended ?? now) - block.queued)]);
    if (started !== null) {
      const name = ended === null ? trans.__("running") : trans.__("ran");
      found.push([name, words.duration((ended ?? now) - started)]);
    }
    if (ended !== null) found.push([trans.__("ended"), words.ago(now - ended)]);
    if (block.worker !== null) found.push([trans.__("worker"), String(block.worker)]);
    if (block.peak !== null) found.push([trans.__("peak memory"), words.size(block.peak)]);
    if (block.session !== null) found.push([trans.__("session"), block.session]);
    return found;
  }

  private actions(block: Block): HTMLElement[] {
    const { trans } = this.context.words;
    const found: HTMLElement[] = [];
    const { error, worker } = block;
    if (error) {
      const label = trans.__("Copy error");
      const copying = button("jpm-button", label, label, () => {
        void copy(copying, `${error}\n\n${block.code}`, trans);
      });
      found.push(copying);
    }
    if (block.cell) found.push(...this.goingTo(block.cell));
    if (block.ended === null) {
      const label = block.started === null ? trans.__("Cancel") : trans.__("Interrupt");
      found.push(this.order(label, { type: "cancel", request: block.id }));
      if (worker !== null) {
        const restart = trans.__("Restart worker %1", worker);
        found.push(this.order(restart, { type: "restart", worker }));
      }
    }
    const close = trans.__("Close");
    found.push(
      button("jpm-button", close, close, () => {
        this.close();
      }),
    );
    return found;
  }

  /** A button for the request's cell, where somebody can show cells. */
  private goingTo(cell: string): HTMLElement[] {
    const { cells, words } = this.context;
    const { trans } = words;
    const there = cells.has(cell);
    if (there === null) return [];
    const label = trans.__("Go to cell");
    const going = button("jpm-button", label, label, () => {
      if (cells.show(cell)) this.close();
      else gone();
    });
    const gone = () => {
      const why = trans.__("The cell is gone");
      text(going, why);
      for (const name of ["title", "aria-label"]) attribute(going, name, why);
      going.disabled = true;
    };
    if (!there) gone();
    return [going];
  }

  private order(label: string, command: Command): HTMLButtonElement {
    return button("jpm-button", label, label, () => {
      this.context.send(command);
      this.close();
    });
  }

  private place(x: number, y: number): void {
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const right = document.documentElement.clientWidth - 8;
    const bottom = document.documentElement.clientHeight - 8;
    const below = y + 14 + height <= bottom;
    this.element.style.left = `${Math.max(8, Math.min(x + 10, right - width))}px`;
    this.element.style.top = `${below ? y + 14 : Math.max(8, y - 14 - height)}px`;
  }
}

function cut(error: string): string {
  return error.length > 300 ? `${error.slice(0, 300)}…` : error;
}
