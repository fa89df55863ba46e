// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Block, PoolState } from "../src/protocol";
import { english, type Trans } from "../src/trans";
import { createMonitor } from "../src/view";
import { givePopovers } from "./browser";
import { block, snapshot } from "./example";

givePopovers();

/** A language in which every text is in brackets. */
const bracketed: Trans = {
  __: (...given) => `[${english.__(...given)}]`,
  _n: (...given) => `[${english._n(...given)}]`,
};

const NOW = snapshot().now;

/** What a pool is told to run and where, which no translator touches; and signs. */
const DATA =
  /default|lost pool|alice|train|export|fit\(\) × 8|model\.\w+\(X, y\)|import time|time\.sleep\(9\)|ValueError: shapes \(3, 4\) and \(5,\) do not match|Traceback …|no such kernel|max tasks|%%pool_exec|spare pool|a reason/g;
const SIGNS = /^[\s\d.,:;/·+−×■↻⋯p-]*$/;

/** What is left of a text without what is in brackets and what is data. */
function left(text: string): string {
  let rest = text;
  for (let before = ""; before !== rest;) {
    before = rest;
    rest = rest.replace(/\[[^[\]]*\]/g, "");
  }
  return rest.replace(DATA, "");
}

/** Everything that is read or heard, with what is not in brackets. */
function untranslated(host: HTMLElement): string[] {
  const said: string[] = [];
  const look = (node: Node): void => {
    if (node.nodeType === Node.TEXT_NODE) said.push(node.textContent ?? "");
    if (node instanceof Element) {
      for (const name of ["title", "aria-label", "placeholder", "alt"]) {
        said.push(node.getAttribute(name) ?? "");
      }
    }
    node.childNodes.forEach(look);
  };
  look(host);
  return said.filter((text) => !SIGNS.test(left(text)));
}

let host: HTMLElement;

beforeEach(() => {
  vi.useFakeTimers({ now: NOW * 1000 });
  host = document.createElement("div");
  // Somebody who knows the cells: one of them is gone.
  host.addEventListener("jupyter-pool:cell", (event) => {
    const { detail } = event as CustomEvent<{ cell: string; answer: boolean }>;
    detail.answer = !detail.cell.endsWith("4");
  });
  document.body.append(host);
});

afterEach(() => {
  host.remove();
  vi.useRealTimers();
});

/** Show these states one after the other, open what can be opened, and look at every text. */
function look(...states: PoolState[]): string[] {
  const monitor = createMonitor(host, {
    state: null,
    send: () => undefined,
    options: { trans: bracketed },
  });
  const found = untranslated(host);
  const press = (selector: string) => {
    host.querySelectorAll<HTMLElement>(selector).forEach((node) => {
      node.click();
      found.push(...untranslated(host));
    });
  };
  for (const state of states) {
    monitor.update(state);
    vi.advanceTimersByTime(6000);
    found.push(...untranslated(host));
    for (const drawer of host.querySelectorAll("details")) {
      drawer.open = true;
      drawer.dispatchEvent(new Event("toggle"));
    }
    const track = host.querySelector(".jpm-track");
    for (const key of ["ArrowDown", "End", "Enter", "ArrowLeft", "Enter", "ArrowDown", "Enter"]) {
      track?.dispatchEvent(new KeyboardEvent("keydown", { key }));
      found.push(...untranslated(host));
    }
    press(".jpm-span");
    press(".jpm-item");
  }
  monitor.dispose();
  return found;
}

it("is spoken by everything that the view says", () => {
  expect(look(snapshot())).toEqual([]);
  expect(look(snapshot({ waiting: 0, lively: false, workers: [], blocks: [] }))).toEqual([]);
  const none: Partial<PoolState> = { state: "none", workers: [], blocks: [] };
  expect(look(snapshot({ ...none, pools: [] }))).toEqual([]);
  expect(look(snapshot({ ...none, pool: "lost pool", pools: ["spare pool"] }))).toEqual([]);
});

it("has words for every state", () => {
  const worker = snapshot().workers[0];
  if (!worker) throw new Error("the example has workers");
  const states = [
    "starting",
    "setting up",
    "standby",
    "idle",
    "busy",
    "leased",
    "interrupting",
    "resetting",
    "stopping",
  ] as const;
  const workers = states.map((state, n) => ({ ...worker, id: n + 1, state, since: NOW - 400 }));
  const outcomes = [
    "ok",
    "failed",
    "operation_timeout",
    "checkout_timeout",
    "cancelled",
    "restarted",
    "worker_died",
    "memory_limit_exceeded",
    "protocol_error",
    "start_failed",
    "saturated",
    "closed",
  ];
  const blocks = outcomes.map((outcome, n): Block =>
    block({
      id: outcome,
      code: "",
      worker: (n % 9) + 1,
      kind: (["cell", "call", "lease"] as const)[n % 3] ?? "cell",
      queued: NOW - 9000,
      started: NOW - 4000 + n,
      ended: NOW - 30 + n,
      outcome,
    }),
  );
  const stats = { ...snapshot().stats, workers_lost: { "a reason": 2 } } as PoolState["stats"];
  const errors = blocks.slice(1);
  const all = { workers, blocks, errors, error_count: 11, stats };
  expect(look(snapshot({ ...all, waiting: 0 }), snapshot({ ...all, error_count: 12 }))).toEqual([]);
  for (const state of ["new", "degraded", "closing"] as const) {
    expect(look(snapshot({ ...all, state }))).toEqual([]);
  }
  const starting = workers.slice(0, 1);
  expect(look(snapshot({ state: "degraded", reason: null, log: "Traceback …" }))).toEqual([]);
  expect(look(snapshot({ state: "running", workers: starting, waiting: 0 }))).toEqual([]);
  const many = Array.from({ length: 60 }, (_, n) => ({ ...worker, id: n }));
  expect(look(snapshot({ workers: many }))).toEqual([]);
});

it("is seen to be missing", () => {
  host.append("Text of nobody", "[a text] of nobody");
  expect(look()).toHaveLength(2);
});
