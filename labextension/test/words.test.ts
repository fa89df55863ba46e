import { expect, it } from "vitest";
import { english } from "../src/trans";
import { Words } from "../src/words";

const words = new Words(english);

it("says durations in two figures or so", () => {
  const said = [0.0004, 0.012, 0.85, 1.42, 12.3, 59.9, 200, 3600, 7500].map((s) =>
    words.duration(s),
  );
  expect(said).toEqual([
    "0.4 ms",
    "12 ms",
    "850 ms",
    "1.4 s",
    "12 s",
    "1 min",
    "3 min 20 s",
    "1 h",
    "2 h 5 min",
  ]);
  expect(words.duration(-1)).toBe("0.0 ms");
});

it("has a short form for what goes on", () => {
  expect([0.26, 12.3, 200, 3900].map((s) => words.elapsed(s))).toEqual([
    "0.3 s",
    "12 s",
    "3:20",
    "1:05:00",
  ]);
});

it("says how long ago, sizes, rates and numbers", () => {
  expect([0.3, 40, 190, 8000].map((s) => words.ago(s))).toEqual([
    "just now",
    "40 s ago",
    "3 min ago",
    "2 h ago",
  ]);
  expect([54e6, 1.23e9, 12.3e9, 4e3].map((n) => words.size(n))).toEqual([
    "54 MB",
    "1.2 GB",
    "12.3 GB",
    "4 kB",
  ]);
  expect([0.4, 41.2].map((n) => words.rate(n))).toEqual(["0.4/s", "41/s"]);
  expect([words.workers(1), words.workers(4)]).toEqual(["1 worker", "4 workers"]);
});

it("knows outcomes, and makes words of those it does not", () => {
  expect(words.outcome("operation_timeout")).toBe("timed out");
  expect(words.outcome(null)).toBe("running");
  expect(words.outcome("some_new_one")).toBe("some new one");
});
