// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { PoolState, Worker } from "../src/protocol";
import { createMonitor, type Monitor } from "../src/view";
import { givePictures, givePopovers, type Moved } from "./browser";
import { block, snapshot } from "./example";

const NOW = snapshot().now;

let host: HTMLElement;
let monitor: Monitor;
let moved: Moved[];
let painted: Set<HTMLCanvasElement>;
let calm: boolean;
let hidden: boolean;
let frames: number;

givePopovers();

beforeEach(() => {
  vi.useFakeTimers({ now: NOW * 1000 });
  ({ moved, painted } = givePictures());
  calm = hidden = false;
  frames = 0;
  Object.defineProperty(HTMLElement.prototype, "offsetParent", {
    get: () => (hidden ? null : document.body),
    configurable: true,
  });
  vi.spyOn(globalThis, "requestAnimationFrame").mockImplementation(() => ++frames);
  vi.spyOn(globalThis, "matchMedia").mockImplementation(
    (query) => ({ matches: calm && query.includes("reduced-motion") }) as MediaQueryList,
  );
  host = document.createElement("div");
  document.body.append(host);
});

afterEach(() => {
  monitor.dispose();
  expect(vi.getTimerCount()).toBe(0);
  expect(frames).toBe(0);
  host.remove();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

function begin(state: PoolState): void {
  monitor = createMonitor(host, { state, send: () => undefined });
}

function idle(changes: Partial<PoolState> = {}): PoolState {
  const workers = snapshot().workers.map((one): Worker => ({
    ...one,
    state: "idle",
    request: null,
  }));
  return snapshot({
    workers,
    waiting: 0,
    waiters: [],
    jobs: [],
    rate: 0,
    lively: false,
    ...changes,
  });
}

const later = (seconds: number, changes: Partial<PoolState> = {}) => {
  vi.advanceTimersByTime(seconds * 1000);
  monitor.update(snapshot({ full: false, now: NOW + seconds, blocks: [], ...changes }));
};
const named = (name: string) => moved.filter(({ element }) => element.matches(`.jpm-${name}`));
const canvas = (name: string) => host.querySelector<HTMLCanvasElement>(name) as HTMLCanvasElement;

describe("what is new", () => {
  const fresh = block({ id: "new", worker: 3, queued: NOW, started: NOW });

  it("fades in, once, and not what was there when the view was opened", () => {
    begin(snapshot());
    expect(named("arriving")).toEqual([]);
    later(0.25, { blocks: [fresh] });
    const [fade] = named("arriving");
    expect(fade?.frames).toEqual([{ opacity: 0 }, { opacity: 1 }]);
    expect(fade?.options.duration).toBe(120);
    expect(painted.has(canvas(".jpm-arriving"))).toBe(true);
    later(0.5, { blocks: [fresh] });
    expect(named("arriving")).toHaveLength(1);
    expect(canvas(".jpm-arriving").hidden).toBe(true);
  });

  it("is there at once for those who want less motion", () => {
    calm = true;
    begin(snapshot());
    later(0.25, { blocks: [fresh] });
    later(1.25, { blocks: [block({ ...fresh, id: "newer" })] });
    expect(moved).toEqual([]);
  });
});

describe("the lanes", () => {
  it("slide while something runs, and only then", () => {
    begin(snapshot());
    expect(named("flow")).toHaveLength(1);
    expect(named("flow")[0]?.options.duration).toBe(2000);
    monitor.update(idle());
    expect(named("flow")).toHaveLength(1);
    expect(named("flow")[0]?.animation.cancel).toHaveBeenCalled();
  });

  it("stand still while the pointer is over them", () => {
    begin(snapshot());
    const track = host.querySelector(".jpm-track");
    track?.dispatchEvent(new PointerEvent("pointermove", { clientX: 1, clientY: 1 }));
    expect(named("flow")[0]?.animation.pause).toHaveBeenCalled();
    later(0.25);
    expect(named("flow")).toHaveLength(1);
    track?.dispatchEvent(new PointerEvent("pointerleave"));
    expect(named("flow")).toHaveLength(2);
  });

  it("take one step a second for those who want less motion", () => {
    calm = true;
    begin(snapshot());
    const steps = () => {
      const was = painted.has(canvas(".jpm-canvas"));
      painted.clear();
      return was;
    };
    expect(steps()).toBe(true);
    later(0.25);
    later(0.25);
    expect(steps()).toBe(false);
    later(0.5);
    expect(steps()).toBe(true);
    expect(moved).toEqual([]);
  });
});

describe("a worker that dies", () => {
  it("is outlined once", () => {
    begin(snapshot());
    const row = host.querySelectorAll(".jpm-row")[0];
    const death = block({ id: "d", worker: 1, ended: NOW, outcome: "worker_died" });
    const workers = snapshot().workers.slice(1);
    later(0.25, { blocks: [death], workers });
    expect(row?.classList.contains("jpm-dying")).toBe(true);
    row?.dispatchEvent(new Event("animationend"));
    later(0.25, { workers });
    expect(row?.classList.contains("jpm-dying")).toBe(false);
  });
});

describe("when nothing happens", () => {
  it("there is no timer where there is no pool, and none before the first request", () => {
    begin(idle({ state: "none", workers: [], blocks: [], last_ended: null }));
    expect(vi.getTimerCount()).toBe(0);
    monitor.update(idle({ state: "new", workers: [], blocks: [], last_ended: null }));
    expect(vi.getTimerCount()).toBe(0);
    monitor.update(idle({ blocks: [], last_ended: null }));
    expect(vi.getTimerCount()).toBe(0);
  });

  it("the lanes empty by the second, then a minute passes at a time", () => {
    begin(idle());
    const pause = () => {
      const before = Date.now();
      vi.advanceTimersToNextTimer();
      return Date.now() - before;
    };
    expect(host.querySelector(".jpm-summary")?.textContent).toBe("Last request 3 s ago.");
    expect(pause()).toBe(1000);
    vi.advanceTimersByTime(60_000);
    expect(pause()).toBeGreaterThan(50_000);
    expect(pause()).toBe(60_000);
    expect(host.querySelector(".jpm-summary")?.textContent).toMatch(
      /^Last request [34] min ago\.$/,
    );
  });

  it("a view that is not to be seen has no timer, until it is shown again", () => {
    begin(snapshot());
    hidden = true;
    vi.advanceTimersByTime(1000);
    expect(vi.getTimerCount()).toBe(0);
    hidden = false;
    later(3);
    expect(vi.getTimerCount()).toBe(1);
  });

  it("a kernel that has fallen silent is said to be so, and waited for without a timer", () => {
    begin(snapshot());
    vi.advanceTimersByTime(7000);
    expect(host.querySelector(".jpm-word")?.textContent).toBe("Silent");
    expect(vi.getTimerCount()).toBe(0);
  });
});
