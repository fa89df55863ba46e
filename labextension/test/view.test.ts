// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Command, PoolState } from "../src/protocol";
import { createMonitor, type Monitor, type Options } from "../src/view";
import { snapshot } from "./example";

let host: HTMLElement;
let monitor: Monitor;
let sent: Command[];

function show(state: PoolState | null, options: Options = {}): void {
  monitor = createMonitor(host, { state, send: (command) => sent.push(command), options });
}

function words(selector: string): string {
  return (host.querySelector(selector)?.textContent ?? "").trim();
}

function press(label: string): void {
  const found = host.querySelector<HTMLButtonElement>(`button[aria-label="${label}"]`);
  if (!found) throw new Error(`no button ${label}`);
  found.click();
}

beforeEach(() => {
  vi.useFakeTimers({ now: snapshot().now * 1000 });
  host = document.createElement("div");
  document.body.append(host);
  sent = [];
});

afterEach(() => {
  monitor.dispose();
  expect(host.childElementCount).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
  host.remove();
  vi.useRealTimers();
});

describe("a monitor", () => {
  it("says how a pool is", () => {
    show(snapshot());
    expect(words(".jpm-word")).toBe("Saturated");
    expect(words(".jpm-summary")).toBe("2 of 2 busy · 1 waiting, oldest 1.5 s · 0.6/s");
    expect(host.querySelector(".jpm-capacity")?.getAttribute("aria-label")).toBe(
      "2 of 3 slots taken, 1 waiting",
    );
    expect(host.querySelectorAll(".jpm-slot.jpm-taken")).toHaveLength(2);
    expect(host.querySelectorAll(".jpm-waiter")).toHaveLength(1);
    const rows = [...host.querySelectorAll(".jpm-row")].map((row) =>
      row.getAttribute("aria-label"),
    );
    expect(rows).toEqual([
      "Worker 1, busy for 2.0 s, 54 MB",
      "Worker 2, held for 10 s, 48 MB",
      "Worker 3, idle",
    ]);
    expect(words(".jpm-job")).toContain("47/50 · 1:00 · 4.0 s left");
  });

  it("lists jobs, each with its progress and a way to cancel it", () => {
    show(snapshot());
    const rows = [...host.querySelectorAll(".jpm-job")];
    expect(rows.map((row) => row.querySelector(".jpm-job-figures")?.textContent)).toEqual([
      "47/50 · 1:00 · 4.0 s left",
      "running · 10 s",
    ]);
    expect(rows.map((row) => row.querySelector("progress")?.hasAttribute("value"))).toEqual([
      true,
      false,
    ]);
    press("Cancel export");
    expect(sent).toEqual([{ type: "cancel_job", job: "background-2" }]);
    const [first, second] = snapshot().jobs;
    if (!first || !second) throw new Error("the example has two jobs");
    vi.advanceTimersByTime(1000);
    monitor.update(snapshot({ now: snapshot().now + 1, jobs: [second] }));
    expect([...host.querySelectorAll(".jpm-job")]).toEqual([rows[1]]);
    expect(words(".jpm-job-figures")).toBe("running · 11 s");
  });

  it("goes on by itself, and notices silence", () => {
    show(snapshot());
    vi.advanceTimersByTime(2000);
    monitor.update(snapshot({ now: snapshot().now + 2, waiting: 0, seq: 13 }));
    expect(words(".jpm-word")).toBe("Busy");
    vi.advanceTimersByTime(7000);
    monitor.update(snapshot({ now: snapshot().now + 9, waiting: 0, seq: 14 }));
    expect(words(".jpm-word")).toBe("Busy");
  });

  it("offers to start a pool where there is none", () => {
    show(snapshot({ state: "none", workers: [], blocks: [], size: 4, pools: [] }));
    expect(words(".jpm-empty")).toContain("No pool in this kernel.");
    press("Start a pool");
    expect(sent).toEqual([{ type: "start" }]);
  });

  it("names the pools there are, where the wanted one is not", () => {
    show(snapshot({ state: "none", pool: "big", workers: [], blocks: [], pools: ["a", "b"] }));
    expect(words(".jpm-empty")).toBe("No pool named “big”.There are: a, b.");
  });

  it("sends what its buttons are for", () => {
    show(snapshot());
    press("One worker more");
    press("One worker fewer");
    press("Interrupt what runs");
    press("Restart the worker");
    press("Cancel train");
    expect(sent).toEqual([
      { type: "resize", size: 3 },
      { type: "resize", size: 1 },
      { type: "cancel", request: "a1b2c3d4-5" },
      { type: "restart", worker: 1 },
      { type: "cancel_job", job: "each-1" },
    ]);
  });

  it("moves among requests with the arrows, and cancels with Delete", () => {
    show(snapshot());
    const track = host.querySelector<HTMLElement>(".jpm-track");
    const press = (key: string) => track?.dispatchEvent(new KeyboardEvent("keydown", { key }));
    const at = () => words("[role=option]");
    press("ArrowRight");
    expect(at()).toMatch(/^model\.fit\(X, y\), running, waited 0\.0 ms, running 2\.0 s/);
    press("ArrowLeft");
    expect(at()).toMatch(/^import time, done/);
    press("Delete");
    expect(sent).toEqual([]);
    press("ArrowRight");
    press("Delete");
    expect(sent).toEqual([{ type: "cancel", request: "a1b2c3d4-5" }]);
    press("ArrowDown");
    expect(at()).toMatch(/^a checked-out worker, running/);
  });

  it("has drawers for errors, sessions and statistics", () => {
    show(snapshot());
    const [errors, sessions, stats] = host.querySelectorAll("details");
    for (const drawer of [errors, sessions, stats]) {
      if (!drawer) throw new Error("a drawer is missing");
      drawer.open = true;
      drawer.dispatchEvent(new Event("toggle"));
    }
    expect(errors?.textContent).toContain("Errors (1)");
    expect(errors?.textContent).toContain("ValueError: shapes (3, 4)");
    expect(sessions?.textContent).toContain("alice");
    expect(stats?.textContent).toContain("ran9.0 s16 s");
    expect(stats?.textContent).toContain("1 recycled (1 max tasks)");
  });

  it("says why workers do not start, and shows what they wrote", () => {
    show(
      snapshot({ state: "degraded", reason: "no such kernel", log: "Traceback …", workers: [] }),
    );
    expect(words(".jpm-word")).toBe("Degraded");
    expect(words(".jpm-trouble b")).toBe("no such kernel");
    expect(words(".jpm-log pre")).toBe("Traceback …");
  });

  it("draws no more often than it is told to, and misses nothing", () => {
    show(snapshot(), { interval: 1000 });
    vi.advanceTimersByTime(100);
    monitor.update(snapshot({ seq: 13, waiting: 5 }));
    monitor.update(snapshot({ seq: 14, waiting: 7 }));
    expect(words(".jpm-summary")).toContain("1 waiting");
    vi.advanceTimersByTime(900);
    expect(words(".jpm-summary")).toContain("7 waiting");
  });

  it("reaches as far back as it is told to", () => {
    show(snapshot(), { history: 600 });
    expect(words(".jpm-span")).toBe("60 s ago");
    press("Show another span of time");
    expect(words(".jpm-span")).toBe("10 min ago");
  });

  it("ends sessions", () => {
    show(snapshot());
    const drawer = host.querySelectorAll("details")[1];
    if (!drawer) throw new Error("a drawer is missing");
    drawer.open = true;
    drawer.dispatchEvent(new Event("toggle"));
    press("End session alice");
    expect(sent).toEqual([{ type: "end_session", session: "alice" }]);
  });

  it("shows a refusal for a while", () => {
    show(snapshot());
    monitor.refuse("pool 'default' has no worker 9");
    expect(words(".jpm-notice")).toContain("no worker 9");
    vi.advanceTimersByTime(9000);
    expect(host.querySelector<HTMLElement>(".jpm-notice")?.hidden).toBe(true);
  });

  it("tells a screen reader of changes, at most every five seconds", () => {
    show(snapshot({ waiting: 0 }));
    const live = () => words("[aria-live=polite]");
    expect(live()).toBe("");
    monitor.update(snapshot({ waiting: 3 }));
    expect(live()).toBe("Pool default: Saturated");
    monitor.update(snapshot({ waiting: 0, error_count: 2 }));
    expect(live()).toBe("Pool default: Saturated");
    vi.advanceTimersByTime(5000);
    monitor.update(snapshot({ waiting: 0, error_count: 2, now: snapshot().now + 5 }));
    expect(live()).toBe("Pool default: Busy. 1 request failed");
  });
});
