/** The status bar's item: how busy the pools of the current notebook are; hidden where there is none. */

import type { TranslationBundle } from "@jupyterlab/translation";
import { type ISignal, Signal } from "@lumino/signaling";
import { Widget } from "@lumino/widgets";
import { el, text } from "../dom";
import type { Follower } from "./follow";
import type { KernelLink } from "./link";
import { summary } from "./summary";

export class StatusItem extends Widget {
  private readonly words = el("span", "jp-StatusBar-TextItem");
  private readonly changes = new Signal<this, void>(this);
  private link: KernelLink | null = null;
  private wanted = true;

  constructor(
    private readonly follower: Follower,
    private readonly trans: TranslationBundle,
    open: () => void,
  ) {
    super();
    this.addClass("jpm-status");
    this.addClass("jp-mod-highlighted");
    this.node.tabIndex = 0;
    this.node.setAttribute("role", "button");
    this.node.title = trans.__("Show the kernel pools");
    this.node.append(this.words);
    this.node.addEventListener("click", open);
    this.node.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
    follower.changed.connect(this.follow, this);
    this.follow();
  }

  /** Whether it is shown where there are pools. */
  set enabled(wanted: boolean) {
    this.wanted = wanted;
    this.render();
  }

  get isActive(): boolean {
    return this.wanted && (this.link?.states.size ?? 0) > 0;
  }

  get activeChanged(): ISignal<this, void> {
    return this.changes;
  }

  private follow(): void {
    const link = this.follower.current?.link ?? null;
    if (link !== this.link) {
      this.link?.changed.disconnect(this.render, this);
      this.link = link;
      link?.changed.connect(this.render, this);
    }
    this.render();
  }

  private render(): void {
    text(this.words, summary([...(this.link?.states.values() ?? [])], this.trans));
    this.changes.emit();
  }
}
