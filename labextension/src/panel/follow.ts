/** Which kernel is looked at: that of the current notebook or console. */

import type { JupyterFrontEnd } from "@jupyterlab/application";
import type { ISessionContext } from "@jupyterlab/apputils";
import type { ConsolePanel, IConsoleTracker } from "@jupyterlab/console";
import type { INotebookTracker, NotebookPanel } from "@jupyterlab/notebook";
import type { Kernel } from "@jupyterlab/services";
import { type ISignal, Signal } from "@lumino/signaling";
import type { Widget } from "@lumino/widgets";
import { KernelLink } from "./link";

type Document = NotebookPanel | ConsolePanel;

/** What is known of the current document's kernel. */
export interface Current {
  title: string;
  context: ISessionContext;
  /** Null: it has no kernel. */
  link: KernelLink | null;
}

export class Follower {
  private readonly links = new WeakMap<Kernel.IKernelConnection, KernelLink>();
  private readonly seen = new WeakSet<Document>();
  private document: Document | null = null;
  private readonly changes = new Signal<this, void>(this);
  private readonly trackers: (INotebookTracker | IConsoleTracker)[];

  constructor(
    private readonly shell: JupyterFrontEnd.IShell,
    ...trackers: (INotebookTracker | IConsoleTracker | null)[]
  ) {
    this.trackers = trackers.filter((tracker) => tracker !== null);
    for (const tracker of this.trackers) {
      // A kernel tells of its pools only to those who listen: also while another document is current.
      tracker.widgetAdded.connect((_: unknown, document: Document) => {
        this.see(document);
      });
      tracker.currentChanged.connect(this.look, this);
      tracker.forEach((document: Document) => {
        this.see(document);
      });
    }
    shell.currentChanged?.connect(this.look, this);
    this.look();
  }

  /** The current document or its kernel is another one. */
  get changed(): ISignal<this, void> {
    return this.changes;
  }

  get current(): Current | null {
    const document = this.document;
    if (document === null) return null;
    const context = document.sessionContext;
    const kernel = context.session?.kernel ?? null;
    return {
      title: document.title.label,
      context,
      link: kernel === null ? null : this.linkTo(kernel),
    };
  }

  private linkTo(kernel: Kernel.IKernelConnection): KernelLink {
    let link = this.links.get(kernel);
    if (link === undefined) {
      link = new KernelLink(kernel);
      this.links.set(kernel, link);
    }
    return link;
  }

  private see(document: Document): void {
    if (this.seen.has(document)) return;
    this.seen.add(document);
    const context = document.sessionContext;
    const changed = () => {
      const kernel = context.session?.kernel;
      if (kernel) this.linkTo(kernel);
      if (document === this.document) this.changes.emit();
    };
    context.kernelChanged.connect(changed);
    document.title.changed.connect(() => {
      if (document === this.document) this.changes.emit();
    });
    document.disposed.connect(() => {
      if (document === this.document) {
        this.document = null;
        this.look();
        this.changes.emit();
      }
    });
    changed();
  }

  private look(): void {
    const shown: Widget | null = this.shell.currentWidget;
    let found: Document | null = null;
    for (const tracker of this.trackers) {
      if (shown !== null && tracker.has(shown)) found = shown as Document;
    }
    // Something else in front, a terminal say: stay with the document that was there before.
    found ??= this.document ?? this.trackers.map((t) => t.currentWidget).find((w) => w) ?? null;
    if (found === null || found === this.document || found.isDisposed) return;
    this.document = found;
    this.see(found);
    this.changes.emit();
  }
}
