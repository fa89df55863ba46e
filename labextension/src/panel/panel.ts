/** The panel at the side: the pools of the current notebook's or console's kernel, live. */

import { type TranslationBundle } from "@jupyterlab/translation";
import { Widget } from "@lumino/widgets";
import { button, copy, el, show, text } from "../dom";
import { createMonitor, type Monitor } from "../view";
import type { Current, Follower } from "./follow";
import { poolIcon } from "./icon";
import type { Change, KernelLink } from "./link";
import type { Orders } from "./orders";
import { DEFAULTS, type Settings } from "./settings";

interface Shown {
  host: HTMLElement;
  monitor: Monitor;
}

export class PoolPanel extends Widget {
  private readonly about = el("div", "jpm-panel-about");
  private readonly empty = el("div", "jpm jpm-panel-empty", { role: "status" });
  private readonly list = el("div", "jpm-panel-pools");
  private readonly shown = new Map<string, Shown>();
  /** What is listened to, while the panel is seen. */
  private link: KernelLink | null = null;
  /** Whose pools the views show: they stay while the panel is hidden. */
  private viewed: KernelLink | null = null;
  private language: { link: KernelLink; python: boolean } | null = null;
  private settings: Settings = DEFAULTS;
  private emptyKey = "";

  constructor(
    private readonly follower: Follower,
    private readonly orders: Orders,
    private readonly trans: TranslationBundle,
  ) {
    super();
    this.id = "jupyter-pool-panel";
    this.addClass("jpm-panel");
    this.title.icon = poolIcon;
    this.title.caption = trans.__("Kernel Pools");
    this.node.setAttribute("aria-label", trans.__("Kernel Pools"));
    this.node.setAttribute("role", "region");
    const heading = el("h2", "jpm-panel-heading", {}, trans.__("Kernel Pools"));
    this.node.append(el("div", "jpm-panel-header", {}, heading, this.about));
    this.node.append(this.empty, this.list);
    follower.changed.connect(this.follow, this);
  }

  configure(settings: Settings): void {
    const anew =
      settings.history !== this.settings.history ||
      settings.updateRate !== this.settings.updateRate ||
      settings.confirm !== this.settings.confirm;
    this.settings = settings;
    if (!anew) return;
    this.leave();
    this.clear();
    this.follow();
  }

  override dispose(): void {
    this.leave();
    this.clear();
    super.dispose();
  }

  protected override onAfterShow(): void {
    this.follow();
  }

  protected override onAfterHide(): void {
    // Also for a moment, while the theme changes: what is open in a view is open after it. Views
    // cost nothing while nobody sees them; what they miss is told anew.
    this.leave();
  }

  private leave(): void {
    this.link?.changed.disconnect(this.heard, this);
    this.link = null;
  }

  private clear(): void {
    for (const { host, monitor } of this.shown.values()) {
      monitor.dispose();
      host.remove();
    }
    this.shown.clear();
    this.viewed = null;
  }

  private follow(): void {
    if (!this.isVisible) return;
    const current = this.follower.current;
    text(this.about, current?.title ?? "");
    const link = current?.link ?? null;
    if (link !== this.link) {
      this.leave();
      if (link !== this.viewed) this.clear();
      this.link = this.viewed = link;
      link?.changed.connect(this.heard, this);
      if (link !== null) void this.greet(link);
    }
    this.render();
  }

  /** Only kernels that may have pools are asked for them. */
  private async greet(link: KernelLink): Promise<void> {
    const spec = await link.kernel.spec;
    this.language = { link, python: (spec?.language ?? "python").toLowerCase() === "python" };
    if (this.link !== link) return;
    if (this.language.python) void link.greet();
    else this.render();
  }

  private heard(_: KernelLink, change: Change): void {
    if (change.kind === "notice") {
      this.orders.fail(change.pool, change.text);
    } else if (change.kind === "state") {
      const { state } = change;
      const shown = this.shown.get(state.pool);
      if (shown) shown.monitor.update(state);
      else this.render();
    } else {
      this.render();
    }
  }

  /** One view for each pool, or words instead. */
  private render(): void {
    const link = this.link;
    const names = link?.standing === "mismatch" ? [] : (link?.pools ?? []);
    for (const [name, { host, monitor }] of this.shown) {
      if (names.includes(name)) continue;
      monitor.dispose();
      host.remove();
      this.shown.delete(name);
    }
    if (link !== null) for (const name of names) this.showPool(link, name);
    this.showEmpty(this.shown.size > 0 ? null : this.follower.current);
  }

  private showPool(link: KernelLink, name: string): void {
    const state = link.states.get(name);
    if (this.shown.has(name) || state === undefined) return;
    const host = el("div", "jpm-panel-pool", { "data-pool": name });
    const { history, updateRate, confirm } = this.settings;
    const monitor = createMonitor(host, {
      state,
      send: (command) => void this.orders.give(link, name, command),
      options: {
        history,
        interval: Math.round(1000 / updateRate),
        asks: confirm,
        trans: this.trans,
      },
    });
    // In the order of their names.
    const after = [...this.shown].find(([other]) => other > name)?.[1].host ?? null;
    this.list.insertBefore(host, after);
    this.shown.set(name, { host, monitor });
  }

  /** Where there is no pool to see: why, and what to do next. */
  private showEmpty(current: Current | null): void {
    show(this.empty, this.shown.size === 0);
    if (this.shown.size > 0) return;
    const { trans } = this;
    const link = current?.link ?? null;
    const foreign = link !== null && this.language?.link === link && !this.language.python;
    const key = [current?.title, foreign, link?.standing, link?.version, link?.pools].join();
    if (key === this.emptyKey) return;
    this.emptyKey = key;
    const say = (...parts: (Node | string)[]) => {
      this.empty.replaceChildren(...parts.map((part) => el("p", "", {}, part)));
    };
    if (current === null) {
      say(trans.__("Open a notebook or a console: the pools of its kernel are shown here."));
    } else if (link === null) {
      say(trans.__("%1 has no kernel. Choose one to see its pools.", current.title));
    } else if (foreign) {
      say(trans.__("This kernel is not a Python kernel. Pools are started from Python kernels."));
    } else if (link.standing === "silent") {
      say(
        trans.__("jupyter_pool is not loaded in this kernel. Run in a cell:"),
        this.copying("%load_ext jupyter_pool"),
        trans.__("If it is not installed there: %pip install jupyter-pool"),
      );
    } else if (link.standing === "mismatch") {
      say(
        trans.__(
          "This kernel's jupyter_pool speaks version %1 of the panel's protocol, and this panel another one.",
          link.version,
        ),
        trans.__(
          "Install the same jupyter-pool beside JupyterLab and in the kernel, then restart the kernel and reload the page.",
        ),
      );
    } else if (link.standing === "there" && link.pools.length === 0) {
      const { name, size } = link.startable;
      const workers = trans._n("Start %1 worker", "Start %1 workers", size);
      const start = button("jpm-button jpm-primary", trans.__("Start a pool"), workers, () => {
        void this.orders.give(link, name, { type: "start" });
      });
      say(trans.__("No pool in this kernel."), start, trans.__("or begin a cell with"));
      this.empty.append(this.copying("%%pool_exec"));
    } else {
      say(trans.__("Waiting for the kernel…"));
    }
  }

  private copying(magic: string): HTMLElement {
    const node = button("jpm-button jpm-mono", this.trans.__("Copy %1", magic), magic, () => {
      void copy(node, `${magic}\n`, this.trans);
    });
    return node;
  }
}
