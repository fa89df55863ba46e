import { describe, expect, it } from "vitest";
import { PoolModel } from "../src/model";
import { isPoolState, isRefusal, type Worker } from "../src/protocol";
import { block, snapshot } from "./example";

const NOW = snapshot().now;

function worker(id: number, state: Worker["state"] = "idle"): Worker {
  return { id, state, since: NOW, overflow: false, request: null, served: 0, memory: null };
}

function made(...snapshots: ReturnType<typeof snapshot>[]): PoolModel {
  const model = new PoolModel();
  for (const state of snapshots) model.apply(state, state.now);
  return model;
}

describe("the protocol", () => {
  it("takes the example for a state, and nothing of another version", () => {
    expect(isPoolState(snapshot())).toBe(true);
    expect(isPoolState({ ...snapshot(), v: 2 })).toBe(false);
    for (const other of [null, undefined, {}, "pool_state", { type: "refused", text: "no" }]) {
      expect(isPoolState(other)).toBe(false);
    }
    expect(isRefusal({ type: "refused", text: "no" })).toBe(true);
    expect(isRefusal(snapshot())).toBe(false);
  });
});

describe("the history", () => {
  it("keeps what later snapshots no longer tell", () => {
    const later = snapshot({ full: false, seq: 13, now: NOW + 0.25, blocks: [], errors: null });
    const model = made(snapshot(), later);
    expect([...model.blocks.keys()]).toEqual(["a1b2c3d4-2", "a1b2c3d4-4"]);
    expect(model.errors).toHaveLength(1);
    expect(model.sessions[0]?.id).toBe("alice");
  });

  it("forgets what ended long ago, and everything when another pool is shown", () => {
    const late = snapshot({ now: NOW + 290, blocks: [] });
    expect([...made(snapshot(), late).blocks.keys()]).toEqual(["a1b2c3d4-4"]);
    const other = snapshot({ pool: "other", blocks: [], errors: null, workers: [] });
    const model = made(snapshot(), other);
    expect(model.blocks.size + model.errors.length + model.lanes.length).toBe(0);
  });

  it("replaces what ran by how it ended", () => {
    const ended = block({ id: "a1b2c3d4-5", started: NOW - 2, ended: NOW, outcome: "failed" });
    const model = made(snapshot(), snapshot({ full: false, now: NOW + 0.25, blocks: [ended] }));
    expect(model.blocks.get("a1b2c3d4-5")?.outcome).toBe("failed");
  });

  it("holds thousands of blocks, and no more than it should", () => {
    const blocks = Array.from({ length: 25_000 }, (_, n) =>
      block({ id: `r${n}`, started: NOW - 1, ended: NOW, outcome: "ok" }),
    );
    const model = made(snapshot({ blocks }));
    expect(model.blocks.size).toBe(20_000);
    expect(model.blocks.has("r24999")).toBe(true);
  });
});

describe("the lanes", () => {
  it("give a successor the place of a worker that has died", () => {
    const before = snapshot({ workers: [worker(1), worker(2, "busy"), worker(3)] });
    const death = block({ id: "d", worker: 2, ended: NOW, outcome: "worker_died" });
    const gone = snapshot({ workers: [worker(1), worker(3)], blocks: [death] });
    const model = made(before, gone);
    expect(model.lanes[1]).toMatchObject({ worker: null, died: true });
    model.apply(snapshot({ workers: [worker(1), worker(3), worker(4, "starting")] }), NOW);
    expect(model.lanes.map((lane) => lane.worker?.id)).toEqual([1, 4, 3]);
    expect(model.laneOf(death)).toBe(1);
    expect(model.lanes[1]?.died).toBe(true);
    model.apply(snapshot({ workers: [worker(1), worker(3), worker(4, "busy")] }), NOW);
    expect(model.lanes[1]?.died).toBe(false);
  });

  it("are as many as workers again, some time after a pool has shrunk", () => {
    const before = snapshot({ size: 3, workers: [worker(1), worker(2), worker(3)] });
    const model = made(before, snapshot({ size: 1, workers: [worker(3)] }));
    expect(model.lanes).toHaveLength(3);
    model.apply(snapshot({ size: 1, workers: [worker(3)], now: NOW + 10 }), NOW + 10);
    expect(model.lanes.map((lane) => lane.worker?.id)).toEqual([undefined, 3]);
    expect(model.laneOf(block({ worker: 3 }))).toBe(1);
  });
});

describe("the phase", () => {
  const phase = (changes: Parameters<typeof snapshot>[0], after = 0) =>
    made(snapshot(changes)).phase(NOW + after);

  it("is what matters most", () => {
    expect(phase({ waiting: 0 })).toBe("busy");
    expect(phase({ waiting: 3 })).toBe("saturated");
    expect(phase({ waiting: 0, workers: [worker(1)] })).toBe("idle");
    expect(phase({ waiting: 3, workers: [worker(1, "starting")] })).toBe("starting");
    expect(phase({ state: "degraded" })).toBe("degraded");
    expect(phase({ state: "closing" })).toBe("closing");
    expect(phase({ state: "none", workers: [] })).toBe("none");
  });

  it("is silence where a lively kernel says nothing, but not where nothing happens", () => {
    expect(phase({ lively: true }, 5)).not.toBe("silent");
    expect(phase({ lively: true }, 7)).toBe("silent");
    expect(phase({ lively: false }, 700)).not.toBe("silent");
  });

  it("goes by the kernel's clock, however wrong this page's is", () => {
    const model = new PoolModel();
    model.apply(snapshot(), 5);
    expect(model.now(6)).toBeCloseTo(NOW + 1);
  });
});
