/** Jobs, where there are any: work of many requests, or in the background. */

import { button, el, show } from "./dom";
import { duration } from "./format";
import type { PoolModel } from "./model";
import type { Command, Job } from "./protocol";

export class Jobs {
  readonly element = el("div", "jpm-jobs", { role: "list", "aria-label": "Jobs" });
  private key = "";

  constructor(
    private readonly model: PoolModel,
    private readonly send: (command: Command) => void,
  ) {}

  update(): void {
    const jobs = this.model.state?.jobs ?? [];
    show(this.element, jobs.length > 0);
    const key = JSON.stringify(jobs);
    if (key === this.key) return;
    this.key = key;
    this.element.replaceChildren(...jobs.map((job) => this.row(job)));
  }

  private row(job: Job): HTMLElement {
    const bar = el("progress", "", { "aria-label": job.name });
    if (job.total !== null) {
      bar.max = Math.max(1, job.total);
      bar.value = job.done;
    }
    const figures = job.total === null ? job.state : `${job.done}/${job.total}`;
    const left = job.left === null ? "" : ` · ${duration(job.left)} left`;
    const row = el(
      "div",
      "jpm-job",
      { role: "listitem" },
      el("span", "jpm-job-name", {}, job.name),
      bar,
      el("span", "jpm-job-figures", {}, figures + left),
    );
    const { request } = job;
    if (request !== null) {
      row.append(
        button("jpm-icon", `Cancel ${job.name}`, "×", () => {
          this.send({ type: "cancel", request });
        }),
      );
    }
    return row;
  }
}
