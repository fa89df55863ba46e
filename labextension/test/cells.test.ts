// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { answerForCells, type Cells, cellsAround } from "../src/cells";
import { createMonitor, type Monitor } from "../src/view";
import { givePopovers } from "./browser";
import { snapshot } from "./example";

givePopovers();

let host: HTMLElement;
let monitor: Monitor;
/** The cells there are, and those that were shown. */
let there: string[];
let shown: string[];

const known: Cells = {
  has: (cell) => there.includes(cell),
  show: (cell) => there.includes(cell) && shown.push(cell) > 0,
};

beforeEach(() => {
  vi.useFakeTimers({ now: snapshot().now * 1000 });
  there = ["5f0c9a31-5"];
  shown = [];
  host = document.createElement("div");
  document.body.append(host);
  monitor = createMonitor(host, { state: snapshot(), send: () => undefined });
});

afterEach(() => {
  monitor.dispose();
  host.remove();
  vi.useRealTimers();
});

/** The details of the request that runs on the first worker. */
function open(): HTMLButtonElement[] {
  const track = host.querySelector(".jpm-track");
  for (const key of ["End", "Enter"]) track?.dispatchEvent(new KeyboardEvent("keydown", { key }));
  return [...host.querySelectorAll<HTMLButtonElement>(".jpm-card button")];
}

const labels = (buttons: HTMLButtonElement[]) => buttons.map(({ textContent }) => textContent);
const card = () => host.querySelector(".jpm-card")?.matches(":popover-open");

it("offers no way to a cell where nobody answers", () => {
  expect(labels(open())).toEqual(["Interrupt", "Restart worker 1", "Close"]);
  expect(cellsAround(host).has("5f0c9a31-5")).toBeNull();
});

it("offers none where those who answer do not know these cells", () => {
  answerForCells(host, () => null);
  expect(labels(open())).toEqual(["Interrupt", "Restart worker 1", "Close"]);
});

it("goes to the cell", () => {
  answerForCells(host, (asking) => (host.contains(asking) ? known : null));
  const [go] = open();
  expect(go?.textContent).toBe("Go to cell");
  expect(document.activeElement).toBe(go);
  expect(shown).toEqual([]);
  go?.click();
  expect(shown).toEqual(["5f0c9a31-5"]);
  expect(card()).toBe(false);
});

it("says that the cell is gone, before and after a click", () => {
  answerForCells(host, () => known);
  const [go] = open();
  there = [];
  go?.click();
  expect([go?.textContent, go?.getAttribute("aria-label")]).toEqual(
    Array(2).fill("The cell is gone"),
  );
  expect(go?.disabled).toBe(true);
  expect(card()).toBe(true);
  monitor.dispose();
  monitor = createMonitor(host, { state: snapshot(), send: () => undefined });
  const [gone, next] = open();
  expect([gone?.textContent, gone?.disabled]).toEqual(["The cell is gone", true]);
  expect(document.activeElement).toBe(next);
});

it("names cells on rows and errors, for context menus", () => {
  const cells = [...host.querySelectorAll(".jpm-row")].map((row) => row.getAttribute("data-cell"));
  expect(cells).toEqual(["5f0c9a31-5", null, null]);
});
