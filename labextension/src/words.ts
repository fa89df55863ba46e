/** Figures and states as words, short and of steady width. */

import type { Phase } from "./model";
import type { Block, Job, WorkerState } from "./protocol";
import type { Trans } from "./trans";

/** The time of day, as `12:31:04`. */
export function clock(unix: number): string {
  return new Date(unix * 1000).toTimeString().slice(0, 8);
}

export function firstLine(text: string): string {
  return (text.split("\n", 1)[0] ?? "").trim();
}

export class Words {
  constructor(readonly trans: Trans) {}

  /** A duration: `850 ms`, `1.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`. */
  duration(seconds: number): string {
    const { trans } = this;
    const value = Math.max(0, seconds);
    if (value < 0.9995) return trans.__("%1 ms", (value * 1000).toFixed(value < 0.00995 ? 1 : 0));
    if (value < 59.5) return trans.__("%1 s", value.toFixed(value < 9.95 ? 1 : 0));
    const whole = Math.round(value);
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    if (h > 0) return m > 0 ? trans.__("%1 h %2 min", h, m) : trans.__("%1 h", h);
    return s > 0 ? trans.__("%1 min %2 s", m, s) : trans.__("%1 min", m);
  }

  /** A duration that goes on, in little room: `0.8 s`, `12 s`, `3:20`, `1:05:00`. */
  elapsed(seconds: number): string {
    const value = Math.max(0, seconds);
    if (value < 59.5) return this.trans.__("%1 s", value.toFixed(value < 9.95 ? 1 : 0));
    const whole = Math.round(value);
    const two = (n: number) => String(n).padStart(2, "0");
    const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
  }

  /** How long ago, roughly: `just now`, `40 s ago`, `3 min ago`. */
  ago(seconds: number): string {
    const { trans } = this;
    if (seconds < 2) return trans.__("just now");
    if (seconds < 59.5) return trans.__("%1 s ago", Math.round(seconds));
    if (seconds < 3570) return trans.__("%1 min ago", Math.round(seconds / 60));
    return trans.__("%1 h ago", Math.round(seconds / 3600));
  }

  /** A size in decimal units: `54 MB`, `1.2 GB`. */
  size(bytes: number): string {
    const { trans } = this;
    if (bytes >= 1e9) return trans.__("%1 GB", (bytes / 1e9).toPrecision(bytes < 9.95e9 ? 2 : 3));
    if (bytes >= 1e6) return trans.__("%1 MB", Math.round(bytes / 1e6));
    return trans.__("%1 kB", Math.round(bytes / 1e3));
  }

  /** A rate: `41/s`, `0.4/s`. */
  rate(perSecond: number): string {
    return this.trans.__("%1/s", perSecond < 9.95 ? perSecond.toFixed(1) : Math.round(perSecond));
  }

  workers(n: number): string {
    return this.trans._n("%1 worker", "%1 workers", n);
  }

  /** How a request has ended. */
  outcome(name: string | null): string {
    const { trans } = this;
    switch (name) {
      case null:
        return trans.__("running");
      case "ok":
        return trans.__("done");
      case "failed":
        return trans.__("failed");
      case "operation_timeout":
        return trans.__("timed out");
      case "checkout_timeout":
        return trans.__("no worker in time");
      case "cancelled":
        return trans.__("cancelled");
      case "restarted":
        return trans.__("worker restarted");
      case "worker_died":
        return trans.__("worker died");
      case "memory_limit_exceeded":
        return trans.__("too much memory");
      case "protocol_error":
        return trans.__("worker failed");
      case "start_failed":
        return trans.__("no worker could start");
      case "saturated":
        return trans.__("refused, too many waiting");
      case "closed":
        return trans.__("pool closed");
      default:
        return name.replaceAll("_", " ");
    }
  }

  /** What a request is that has no code to show. */
  kind(kind: Block["kind"]): string {
    const { trans } = this;
    switch (kind) {
      case "cell":
        return trans.__("an empty cell");
      case "call":
        return trans.__("a function call");
      case "lease":
        return trans.__("a checked-out worker");
    }
  }

  phase(phase: Phase): string {
    const { trans } = this;
    switch (phase) {
      case "none":
        return trans.__("None");
      case "new":
        return trans.__("Not started");
      case "starting":
        return trans.__("Starting");
      case "idle":
        return trans.__("Ready");
      case "busy":
        return trans.__("Busy");
      case "saturated":
        return trans.__("Saturated");
      case "degraded":
        return trans.__("Degraded");
      case "closing":
        return trans.__("Closing");
      case "silent":
        return trans.__("Silent");
    }
  }

  worker(state: WorkerState): string {
    const { trans } = this;
    switch (state) {
      case "starting":
        return trans.__("starting");
      case "setting up":
        return trans.__("setting up");
      case "standby":
        return trans.__("spare");
      case "idle":
        return trans.__("idle");
      case "busy":
        return trans.__("busy");
      case "leased":
        return trans.__("held");
      case "interrupting":
        return trans.__("interrupting");
      case "resetting":
        return trans.__("resetting");
      case "stopping":
        return trans.__("stopping");
    }
  }

  job(state: Job["state"]): string {
    const { trans } = this;
    return state === "waiting" ? trans.__("waiting") : trans.__("running");
  }
}
