/** What is known of one request: shown beside it on hover, with something to do on a click. */

import { button, copy, el } from "./dom";
import { ago, duration, outcome, size } from "./format";
import type { Block, Command } from "./protocol";

export class Card {
  readonly element = el("div", "jpm jpm-card", { popover: "manual", role: "group" });
  pinned = false;
  block: Block | null = null;

  constructor(private readonly send: (command: Command) => void) {
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
    this.element.setAttribute("aria-label", "Details of a request");
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

  /** The same details as one line of text. */
  static words(block: Block, now: number): string {
    const parts = [block.code.split("\n", 1)[0] || kindOf(block), outcome(block.outcome)];
    for (const [name, value] of facts(block, now)) parts.push(`${name} ${value}`);
    if (block.error) parts.push(block.error.split("\n", 1)[0] ?? "");
    return parts.join(", ");
  }

  private fill(block: Block, now: number): void {
    const code = el("pre", "jpm-code", {}, block.code || kindOf(block));
    const list = el("dl", "jpm-facts");
    for (const [name, value] of facts(block, now)) {
      list.append(el("div", "", {}, el("dt", "", {}, name), el("dd", "", {}, value)));
    }
    const kind = block.outcome === null || block.outcome === "ok" ? "" : " jpm-bad";
    const head = el("div", `jpm-outcome${kind}`, {}, outcome(block.outcome));
    const parts: Node[] = [head, code, list];
    if (block.error)
      parts.push(el("pre", "jpm-error", {}, this.pinned ? block.error : cut(block.error)));
    if (this.pinned) parts.push(this.actions(block));
    this.element.replaceChildren(...parts);
  }

  private actions(block: Block): HTMLElement {
    const row = el("div", "jpm-actions");
    const { error, worker } = block;
    if (error) {
      const copying = button("jpm-button", "Copy the error", "Copy error", () => {
        void copy(copying, `${error}\n\n${block.code}`);
      });
      row.append(copying);
    }
    if (block.ended === null) {
      const label = block.started === null ? "Cancel" : "Interrupt";
      row.append(this.order(`${label} this request`, label, { type: "cancel", request: block.id }));
      if (worker !== null) {
        const restart = `Restart worker ${worker}`;
        row.append(this.order(restart, restart, { type: "restart", worker }));
      }
    }
    row.append(
      button("jpm-button", "Close the details", "Close", () => {
        this.close();
      }),
    );
    return row;
  }

  private order(title: string, label: string, command: Command): HTMLButtonElement {
    return button("jpm-button", title, label, () => {
      this.send(command);
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

function cut(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

function kindOf(block: Block): string {
  return { cell: "an empty cell", call: "a function call", lease: "a checked-out worker" }[
    block.kind
  ];
}

function facts(block: Block, now: number): [string, string][] {
  const found: [string, string][] = [];
  const { started, ended } = block;
  found.push(["waited", duration((started ?? ended ?? now) - block.queued)]);
  if (started !== null)
    found.push([ended === null ? "running" : "ran", duration((ended ?? now) - started)]);
  if (ended !== null) found.push(["ended", ago(now - ended)]);
  if (block.worker !== null) found.push(["worker", String(block.worker)]);
  if (block.peak !== null) found.push(["peak memory", size(block.peak)]);
  if (block.session !== null) found.push(["session", block.session]);
  return found;
}
