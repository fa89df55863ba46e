/** The lanes' picture: what is painted, how it flows, and when it stands still. */

import type { Context } from "./context";
import { el, show } from "./dom";
import { paintLoad, paintTiles, TILE, tileColumns } from "./overview";
import { paintLanes, type Scene } from "./paint";
import { readColours } from "./theme";

/** How many workers are shown: as lanes with labels, as thin lanes, as a tile for each. */
export type Mode = "labelled" | "dense" | "tiles";

/** Up to so many workers have lanes with labels, lanes at all. */
const LABELLED = 12;
const MOST_LANES = 48;
const LOAD_HEIGHT = 44;
/** So many seconds are painted beyond the right edge, to slide in before the next snapshot. */
const AHEAD = 2;
/** What is new fades in, in milliseconds. */
const FADE = 120;

export class Picture {
  readonly tiles = el("canvas", "jpm-tiles", { "aria-hidden": "true" });
  private readonly settled = el("canvas", "jpm-canvas");
  /** What was not in the last picture is painted apart, above the rest. */
  private readonly arriving = el("canvas", "jpm-canvas jpm-arriving");
  readonly flow = el("div", "jpm-flow", { "aria-hidden": "true" }, this.settled, this.arriving);
  private readonly calm = globalThis.matchMedia("(prefers-reduced-motion: reduce)");
  private animation: Animation | null = null;
  /** The kernel's time at which hovering has stopped the flow. */
  private frozenAt: number | null = null;
  private paintedAt = -Infinity;
  private width = 0;

  constructor(
    private readonly context: Context,
    private readonly host: HTMLElement,
  ) {}

  dispose(): void {
    this.animation?.cancel();
  }

  get mode(): Mode {
    const lanes = this.context.model.lanes.length;
    return lanes <= LABELLED ? "labelled" : lanes <= MOST_LANES ? "dense" : "tiles";
  }

  get laneHeight(): number {
    return this.mode === "labelled" ? 22 : 10;
  }

  /** Let nothing move, and nothing be pushed away, until `thaw`. */
  freeze(now: number): void {
    this.frozenAt ??= now;
    this.animation?.pause();
  }

  thaw(): void {
    this.frozenAt = null;
  }

  scene(now: number, span: number, selected: string | null): Scene {
    const { model, clock } = this.context;
    return {
      model,
      colours: readColours(this.host),
      width: this.width,
      pad: Math.ceil(Math.min(200, (AHEAD * this.width) / span)),
      span,
      now: this.frozenAt ?? now,
      laneHeight: this.laneHeight,
      blockHeight: this.mode === "labelled" ? 14 : 7,
      selected,
      stale: model.silent(clock()),
    };
  }

  /** With reduced motion there is one step a second, unless `force` says that it must be now. */
  paint(now: number, span: number, selected: string | null, force: boolean): void {
    const track = this.flow.parentElement;
    this.width = track?.clientWidth ?? 0;
    if (this.width === 0) return;
    if (!force && this.calm.matches && now - this.paintedAt < 0.95) return;
    this.paintedAt = now;
    const scene = this.scene(now, span, selected);
    if (this.mode === "tiles") this.paintOverview(scene);
    else this.paintLanes(scene);
    this.slide(scene);
  }

  private paintLanes(scene: Scene): void {
    const height = scene.laneHeight * scene.model.lanes.length;
    const fresh = scene.model.takeFresh();
    const fades = fresh.size > 0 && !this.calm.matches;
    show(this.arriving, fades);
    const settled = sized(this.settled, scene.width + scene.pad, height);
    const arriving = fades ? sized(this.arriving, scene.width + scene.pad, height) : null;
    if (settled === null) return;
    paintLanes(settled, scene, arriving === null ? undefined : { ctx: arriving, ids: fresh });
    if (arriving === null) return;
    this.arriving.animate([{ opacity: 0 }, { opacity: 1 }], { duration: FADE, easing: "ease-out" });
  }

  private paintOverview(scene: Scene): void {
    show(this.arriving, false);
    const load = sized(this.settled, scene.width + scene.pad, LOAD_HEIGHT);
    if (load) paintLoad(load, scene, LOAD_HEIGHT);
    const width = this.host.clientWidth;
    const rows = Math.ceil(scene.model.lanes.length / tileColumns(width));
    const tiles = sized(this.tiles, width, rows * TILE);
    if (tiles) paintTiles(tiles, scene, width);
  }

  /** Between two paintings the lanes slide by a transform; only while something runs. */
  private slide(scene: Scene): void {
    this.animation?.cancel();
    this.animation = null;
    const moving = scene.model.state?.lively === true && !scene.stale;
    if (!moving || this.frozenAt !== null || this.calm.matches) return;
    const seconds = (scene.pad * scene.span) / scene.width;
    this.animation = this.flow.animate(
      [{ transform: "translateX(0)" }, { transform: `translateX(${-scene.pad}px)` }],
      { duration: seconds * 1000, easing: "linear", fill: "forwards" },
    );
  }
}

/** A canvas of this size, as sharp as the screen; what was painted is gone when the size changes. */
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
