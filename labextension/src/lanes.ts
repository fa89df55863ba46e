/** The centre of the monitor: a lane for each worker, with time flowing to the left. */

import { Card } from "./card";
import { attribute, button, el, show, text } from "./dom";
import { elapsed, size } from "./format";
import { glyph, markOf, setGlyph } from "./glyphs";
import { type Lane, type PoolModel, TAKEN } from "./model";
import { extent, paintLanes, paintLoad, paintTiles, type Scene, TILE, tileColumns } from "./paint";
import type { Block, Command, PoolState } from "./protocol";
import { readColours } from "./theme";

/** Up to so many workers have lanes with labels, lanes at all. */
const LABELLED = 12;
const MOST_LANES = 48;
const LOAD_HEIGHT = 44;
/** So many seconds are painted beyond the right edge, to slide in before the next snapshot. */
const AHEAD = 2;

interface Row {
  element: HTMLElement;
  glyph: SVGSVGElement;
  number: HTMLElement;
  memory: HTMLElement;
  words: HTMLElement;
  interrupt: HTMLButtonElement;
}

export class Lanes {
  readonly element = el("div", "jpm-lanes");
  private readonly gutter = el("div", "jpm-gutter", { role: "list", "aria-label": "Workers" });
  private readonly track = el("div", "jpm-track", {
    role: "listbox",
    tabindex: 0,
    "aria-label": "Requests. Arrow keys move, Enter opens, Delete cancels.",
  });
  private readonly canvas = el("canvas", "jpm-canvas", { "aria-hidden": "true" });
  private readonly tiles = el("canvas", "jpm-tiles", { "aria-hidden": "true" });
  private readonly option = el("div", "jpm-hidden", { role: "option", "aria-selected": "true" });
  private readonly spanButton: HTMLButtonElement;
  private readonly axis = el("div", "jpm-axis");
  private readonly rows: Row[] = [];
  private readonly observer: ResizeObserver;
  private readonly themes: MutationObserver;
  private readonly calm = globalThis.matchMedia("(prefers-reduced-motion: reduce)");
  private animation: Animation | null = null;
  private width = 0;
  /** The seconds that the lanes show, one after the other on a click. */
  private readonly spans: readonly number[];
  private span = 0;
  private selected: string | null = null;
  private selectedLane = 0;
  /** The kernel's time at which hovering has stopped the flow. */
  private frozenAt: number | null = null;
  private paintedAt = -Infinity;

  constructor(
    private readonly model: PoolModel,
    private readonly card: Card,
    private readonly send: (command: Command) => void,
    private readonly clock: () => number,
  ) {
    const shortest = Math.min(60, model.history);
    this.spans = [...new Set([shortest, model.history, 15])];
    const id = `jpm-option-${Math.random().toString(36).slice(2)}`;
    this.option.id = id;
    attribute(this.track, "aria-activedescendant", id);
    this.spanButton = button("jpm-span", "Show another span of time", "", () => {
      this.span = (this.span + 1) % this.spans.length;
      this.render(true);
    });
    this.axis.append(this.spanButton, el("span", "", {}, "now"));
    this.track.append(this.canvas, this.option);
    const scroller = el("div", "jpm-scroll", {}, this.gutter, this.track);
    this.element.append(this.tiles, scroller, this.axis);
    this.track.addEventListener("pointermove", this.hover);
    this.track.addEventListener("pointerleave", this.leave);
    this.track.addEventListener("click", this.click);
    this.track.addEventListener("keydown", this.key);
    this.track.addEventListener("blur", this.blur);
    this.tiles.addEventListener("pointermove", this.hoverTile);
    this.observer = new ResizeObserver(() => {
      this.render(true);
    });
    this.observer.observe(this.track);
    // A theme's colours are there some time after its name.
    this.themes = new MutationObserver(() => {
      requestAnimationFrame(() => {
        this.render(true);
      });
    });
    this.themes.observe(document.body, { attributes: true });
  }

  dispose(): void {
    this.observer.disconnect();
    this.themes.disconnect();
    this.animation?.cancel();
  }

  private get mode(): "labelled" | "dense" | "tiles" {
    const lanes = this.model.lanes.length;
    return lanes <= LABELLED ? "labelled" : lanes <= MOST_LANES ? "dense" : "tiles";
  }

  private get laneHeight(): number {
    return this.mode === "labelled" ? 22 : 10;
  }

  /** Bring everything up to date. With reduced motion lanes take one step a second. */
  render(force = false): void {
    const state = this.model.state;
    if (state === null) return;
    const now = this.model.now(this.clock());
    attribute(this.element, "data-mode", this.mode);
    show(this.tiles, this.mode === "tiles");
    show(this.gutter, this.mode !== "tiles");
    const span = this.seconds;
    text(this.spanButton, `${span > 60 ? `${Math.round(span / 6) / 10} min` : `${span} s`} ago`);
    this.updateRows(state, now);
    this.describe(now);
    if (!force && this.calm.matches && now - this.paintedAt < 0.95) return;
    this.paint(now);
  }

  private get seconds(): number {
    return this.spans[this.span] ?? 60;
  }

  private scene(now: number): Scene {
    const span = this.seconds;
    return {
      model: this.model,
      colours: readColours(this.element),
      width: this.width,
      pad: Math.ceil(Math.min(200, (AHEAD * this.width) / span)),
      span,
      now: this.frozenAt ?? now,
      laneHeight: this.laneHeight,
      blockHeight: this.mode === "labelled" ? 14 : 7,
      selected: this.selected,
      stale: this.model.silent(this.clock()),
    };
  }

  private paint(now: number): void {
    this.width = this.track.clientWidth;
    if (this.width === 0) return;
    this.paintedAt = now;
    const scene = this.scene(now);
    const tiled = this.mode === "tiles";
    const height = tiled ? LOAD_HEIGHT : this.laneHeight * this.model.lanes.length;
    const ctx = sized(this.canvas, scene.width + scene.pad, height);
    if (ctx) {
      if (tiled) paintLoad(ctx, scene, height);
      else paintLanes(ctx, scene);
    }
    if (tiled) {
      const width = this.element.clientWidth;
      const rows = Math.ceil(this.model.lanes.length / tileColumns(width));
      const tiles = sized(this.tiles, width, rows * TILE);
      if (tiles) paintTiles(tiles, this.model, scene.colours, width, scene.stale);
    }
    this.slide(scene);
  }

  /** Between two paintings the lanes slide by a transform; only while something runs. */
  private slide(scene: Scene): void {
    this.animation?.cancel();
    this.animation = null;
    const moving = this.model.state?.lively === true && !scene.stale;
    if (!moving || this.frozenAt !== null || this.calm.matches) return;
    const seconds = (scene.pad * scene.span) / scene.width;
    this.animation = this.canvas.animate(
      [{ transform: "translateX(0)" }, { transform: `translateX(${-scene.pad}px)` }],
      { duration: seconds * 1000, easing: "linear", fill: "forwards" },
    );
  }

  // -- the gutter ------------------------------------------------------------------------------

  private updateRows(state: PoolState, now: number): void {
    const lanes = this.mode === "tiles" ? [] : this.model.lanes;
    while (this.rows.length > lanes.length) this.rows.pop()?.element.remove();
    while (this.rows.length < lanes.length) this.rows.push(this.makeRow(this.rows.length));
    const sizes = lanes.map((lane) => lane.worker?.memory ?? 0);
    const most = state.memory_limit ?? Math.max(100e6, ...sizes) * 1.25;
    lanes.forEach((lane, index) => {
      const row = this.rows[index];
      if (row) updateRow(row, lane, most, now);
    });
  }

  private makeRow(index: number): Row {
    const worker = () => this.model.lanes[index]?.worker ?? null;
    const interrupt = button("jpm-icon", "Interrupt what runs", "■", () => {
      const request = worker()?.request;
      if (request) this.send({ type: "cancel", request });
    });
    const restart = button("jpm-icon", "Restart the worker", "↻", () => {
      const id = worker()?.id;
      if (id !== undefined) this.send({ type: "restart", worker: id });
    });
    // With the keyboard the same is reached in a request's details.
    interrupt.tabIndex = restart.tabIndex = -1;
    const row: Row = {
      element: el("div", "jpm-row", { role: "listitem" }),
      glyph: glyph(),
      number: el("span", "jpm-number"),
      memory: el("span", "jpm-memory", {}, el("i", "")),
      words: el("span", "jpm-words"),
      interrupt,
    };
    const actions = el("span", "jpm-row-actions", {}, interrupt, restart);
    row.element.append(row.glyph, row.number, row.memory, row.words, actions);
    row.element.addEventListener("animationend", () => {
      row.element.classList.remove("jpm-dying");
    });
    this.gutter.append(row.element);
    return row;
  }

  // -- requests --------------------------------------------------------------------------------

  private readonly hover = (event: PointerEvent): void => {
    this.frozenAt ??= this.model.now(this.clock());
    this.animation?.pause();
    const block = this.blockAt(event);
    this.track.classList.toggle("jpm-over", block !== null);
    if (block === null) {
      if (!this.card.pinned) this.card.close();
    } else {
      this.card.open(block, event.clientX, event.clientY, this.model.now(this.clock()), false);
    }
  };

  private readonly leave = (): void => {
    this.frozenAt = null;
    if (!this.card.pinned) this.card.close();
    this.render(true);
  };

  private readonly click = (event: MouseEvent): void => {
    const block = this.blockAt(event);
    this.card.close();
    if (block === null) return;
    this.select(block);
    this.card.open(block, event.clientX, event.clientY, this.model.now(this.clock()), true);
  };

  private readonly blur = (): void => {
    if (!this.card.pinned) this.card.close();
  };

  private readonly hoverTile = (event: PointerEvent): void => {
    const columns = tileColumns(this.element.clientWidth);
    const index = Math.floor(event.offsetY / TILE) * columns + Math.floor(event.offsetX / TILE);
    const worker = this.model.lanes[index]?.worker;
    this.tiles.title = worker ? `Worker ${worker.id}: ${worker.state}` : "";
  };

  /** The request under the pointer, or right beside it: the shortest are a pixel wide. */
  private blockAt(event: MouseEvent): Block | null {
    if (this.mode === "tiles") return null;
    const place = this.track.getBoundingClientRect();
    const x = event.clientX - place.left;
    const lane = Math.floor((event.clientY - place.top) / this.laneHeight);
    const scene = this.scene(this.model.now(this.clock()));
    let best: Block | null = null;
    let nearest = 4;
    for (const block of this.model.inLane(lane)) {
      const [left, right] = extent(scene, block);
      const distance = x < left ? left - x : x > right ? x - right : 0;
      // What runs inside a lease is nearer than the lease.
      if (distance < nearest || (distance === nearest && best?.kind === "lease")) {
        nearest = distance;
        best = block;
      }
    }
    return best;
  }

  private readonly key = (event: KeyboardEvent): void => {
    const moves: Record<string, () => Block | undefined> = {
      ArrowLeft: () => this.beside(-1),
      ArrowRight: () => this.beside(1),
      ArrowUp: () => this.above(-1),
      ArrowDown: () => this.above(1),
      Home: () => this.shown(this.selectedLane)[0],
      End: () => this.shown(this.selectedLane).at(-1),
    };
    const move = moves[event.key];
    const current = this.selected === null ? undefined : this.model.blocks.get(this.selected);
    if (move) {
      const next = move();
      if (next) this.select(next);
    } else if (event.key === "Enter" && current) {
      this.openCard(current, true);
      this.card.element.querySelector("button")?.focus();
    } else if (event.key === "Delete" && current?.ended === null) {
      this.send({ type: "cancel", request: current.id });
    } else if (event.key === "Escape" && this.card.isOpen()) {
      this.card.close();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // the notebook has its own use for arrows and Enter
  };

  /** The requests of a lane that are in the picture. */
  private shown(lane: number): Block[] {
    const oldest = this.model.now(this.clock()) - this.seconds;
    return this.model.inLane(lane).filter((block) => (block.ended ?? Infinity) > oldest);
  }

  private beside(step: number): Block | undefined {
    const blocks = this.shown(this.selectedLane);
    const at = blocks.findIndex((block) => block.id === this.selected);
    return at < 0 ? blocks.at(-1) : blocks[Math.max(0, Math.min(blocks.length - 1, at + step))];
  }

  /** The request of another lane that is nearest in time. */
  private above(step: number): Block | undefined {
    const from = this.selected === null ? undefined : this.model.blocks.get(this.selected);
    const when = from?.started ?? this.model.now(this.clock());
    for (let lane = this.selectedLane + step; this.model.lanes[lane]; lane += step) {
      const blocks = this.shown(lane);
      if (blocks.length === 0) continue;
      const distance = (block: Block) => Math.abs((block.started ?? 0) - when);
      return blocks.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    }
    return from;
  }

  private select(block: Block): void {
    this.selected = block.id;
    this.selectedLane = this.model.laneOf(block) ?? 0;
    this.card.close();
    this.render(true);
    if (this.track.matches(":focus-visible")) this.openCard(block, false);
  }

  private openCard(block: Block, pinned: boolean): void {
    const place = this.track.getBoundingClientRect();
    const now = this.model.now(this.clock());
    const [left] = extent(this.scene(now), block);
    const y = place.top + (this.selectedLane + 1) * this.laneHeight - 8;
    this.card.open(block, place.left + Math.max(0, left), y, now, pinned);
  }

  /** For screen readers: the request that the keyboard is at. */
  private describe(now: number): void {
    const block = this.selected === null ? undefined : this.model.blocks.get(this.selected);
    if (!block) this.selected = null;
    text(this.option, block ? Card.words(block, now) : "No request selected");
  }
}

function updateRow(row: Row, lane: Lane, most: number, now: number): void {
  const { worker, died } = lane;
  const wasDead = row.element.dataset.died !== undefined;
  attribute(row.element, "data-died", died);
  if (died && !wasDead) row.element.classList.add("jpm-dying");
  attribute(row.element, "data-state", worker?.state ?? "gone");
  attribute(row.element, "data-worker", worker?.id);
  attribute(row.element, "data-request", worker?.request ?? undefined);
  setGlyph(row.glyph, markOf(worker?.state, died));
  text(row.number, worker ? String(worker.id) : "");
  const memory = worker?.memory ?? 0;
  const bar = row.memory.firstElementChild as HTMLElement;
  bar.style.width = `${Math.round(100 * Math.min(1, memory / most))}%`;
  const words = wordsOf(lane, now);
  text(row.words, words);
  row.interrupt.disabled = !worker?.request;
  const what = worker ? `Worker ${worker.id}, ${worker.state}` : words;
  const used = memory ? `, ${size(memory)}` : "";
  const label =
    worker && TAKEN.has(worker.state)
      ? `${what} for ${elapsed(now - worker.since)}${used}`
      : `${what}${used}`;
  attribute(row.element, "aria-label", label);
  attribute(row.element, "title", label);
}

function wordsOf({ worker, died }: Lane, now: number): string {
  if (worker === null) return died ? "died" : "";
  if (worker.state === "busy") return elapsed(now - worker.since);
  if (worker.state === "idle") return "";
  if (worker.state === "standby") return "spare";
  return worker.state === "leased" ? "held" : worker.state;
}

function sized(
  canvas: HTMLCanvasElement,
  width: number,
  height: number,
): CanvasRenderingContext2D | null {
  const ratio = globalThis.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const ctx = canvas.getContext("2d");
  ctx?.setTransform(ratio, 0, 0, ratio, 0, 0);
  return ctx;
}
