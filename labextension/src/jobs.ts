/** Jobs, where there are any: work of many requests, or in the background. */

import type { Context } from "./context";
import { attribute, button, el, show, text } from "./dom";
import type { Job } from "./protocol";

export class Jobs {
  readonly element: HTMLElement;
  private readonly rows = new Map<string, Row>();

  constructor(private readonly context: Context) {
    const { trans } = context.words;
    this.element = el("div", "jpm-jobs", { role: "list", "aria-label": trans.__("Jobs") });
  }

  update(now: number): void {
    const jobs = this.context.model.state?.jobs ?? [];
    show(this.element, jobs.length > 0);
    const here = new Set(jobs.map(({ id }) => id));
    for (const [id, row] of this.rows) {
      if (here.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    for (const job of jobs) {
      // They come in the order they began, so a new one is the last.
      let row = this.rows.get(job.id);
      if (row === undefined) {
        row = new Row(job, this.context);
        this.rows.set(job.id, row);
        this.element.append(row.element);
      }
      row.update(job, now);
    }
  }
}

/** One job. It stays the same element: somebody may be about to press its button. */
class Row {
  readonly element: HTMLElement;
  private readonly bar: HTMLProgressElement;
  private readonly figures = el("span", "jpm-job-figures");
  private readonly cancel: HTMLButtonElement;

  constructor(
    job: Job,
    private readonly context: Context,
  ) {
    const { trans } = context.words;
    this.bar = el("progress", "", { "aria-label": job.name });
    this.cancel = button("jpm-icon", trans.__("Cancel %1", job.name), "×", () => {
      context.send({ type: "cancel_job", job: job.id });
    });
    const name = el("span", "jpm-job-name", { title: job.name }, job.name);
    this.element = el("div", "jpm-job", { role: "listitem" });
    this.element.append(name, this.bar, this.figures, this.cancel);
  }

  update(job: Job, now: number): void {
    const { bar } = this;
    const { words } = this.context;
    if (job.total === null) {
      // There is nothing to count, so nothing moves.
      attribute(bar, "data-uncounted", true);
      if (bar.hasAttribute("value")) bar.removeAttribute("value");
    } else {
      attribute(bar, "data-uncounted", false);
      bar.max = Math.max(1, job.total);
      bar.value = job.done;
    }
    show(this.cancel, job.cancellable);
    const counted = job.total === null ? job.done || null : `${job.done}/${job.total}`;
    const parts = [
      counted === null || job.state === "waiting" ? words.job(job.state) : String(counted),
      words.elapsed(now - job.started),
      job.left === null ? "" : words.trans.__("%1 left", words.duration(job.left)),
    ];
    text(this.figures, parts.filter(Boolean).join(" · "));
  }
}
