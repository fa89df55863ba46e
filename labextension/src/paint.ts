/** Paints lanes of requests. Nothing here knows the page. */

import { DEATHS, type PoolModel } from "./model";
import type { Block } from "./protocol";
import { box, cross, hatch } from "./shapes";
import type { Colours } from "./theme";
import { firstLine } from "./words";

export interface Scene {
  model: PoolModel;
  colours: Colours;
  /** The visible width, and how much is painted beyond the right edge, to slide into view. */
  width: number;
  pad: number;
  /** The seconds that the width shows, up to `now`. */
  span: number;
  now: number;
  laneHeight: number;
  blockHeight: number;
  selected: string | null;
  /** Nothing is heard of the kernel: what ran is no longer known to run. */
  stale: boolean;
}

/** Lanes of at least this height have lines between them. */
const LINED = 20;

/** Shorter blocks have no words in them. */
const LABEL = 64;

const CANCELLED: ReadonlySet<string> = new Set(["cancelled", "restarted", "closed"]);
const TIMED_OUT: ReadonlySet<string> = new Set(["operation_timeout", "checkout_timeout"]);

export function xOf(scene: Pick<Scene, "width" | "span" | "now">, time: number): number {
  return scene.width - ((scene.now - time) * scene.width) / scene.span;
}

/** Where a block begins and ends, in pixels; too short ones are widened to be seen. */
export function extent(scene: Scene, block: Block): [number, number] {
  const left = xOf(scene, block.started ?? block.queued);
  const running = block.ended === null;
  const right = running
    ? scene.stale
      ? xOf(scene, scene.model.updatedAt)
      : scene.width + scene.pad
    : xOf(scene, block.ended ?? 0);
  const least = block.outcome === "ok" || running ? 1.5 : 3;
  return [left, Math.max(right, left + least)];
}

/** Requests that are painted somewhere else than the others. */
export interface Apart {
  ctx: CanvasRenderingContext2D;
  ids: ReadonlySet<string>;
}

export function paintLanes(ctx: CanvasRenderingContext2D, scene: Scene, apart?: Apart): void {
  const { model, colours, width, pad, laneHeight } = scene;
  const height = laneHeight * model.lanes.length;
  for (const one of [ctx, apart?.ctx]) one?.clearRect(0, 0, width + pad, height);
  if (laneHeight >= LINED) {
    ctx.fillStyle = colours.line;
    for (let lane = 1; lane <= model.lanes.length; lane++) {
      ctx.fillRect(0, lane * laneHeight - 1, width + pad, 1);
    }
  }
  const visible: [Block, number][] = [];
  const oldest = scene.now - scene.span;
  for (const block of model.blocks.values()) {
    const lane = model.laneOf(block);
    if (lane === undefined || block.started === null) continue;
    if (block.ended !== null && block.ended < oldest) continue;
    visible.push([block, lane]);
  }
  paintWaits(ctx, scene, visible);
  // In a lane, what falls on the same pixels as its neighbour adds nothing to the picture.
  const reached = new Map<number, number>();
  for (const [block, lane] of visible) {
    const [left, right] = extent(scene, block);
    if (right - left < 2 && block.outcome === "ok" && block.id !== scene.selected) {
      if (left < (reached.get(lane) ?? -Infinity)) continue;
      reached.set(lane, left + 1);
    }
    const where = apart?.ids.has(block.id) ? apart.ctx : ctx;
    paintBlock(where, scene, block, lane, left, right);
  }
}

/** A thin line for as long as a request waited, after what its worker ran before. */
function paintWaits(ctx: CanvasRenderingContext2D, scene: Scene, blocks: [Block, number][]): void {
  ctx.fillStyle = scene.colours.quiet;
  ctx.globalAlpha = 0.45;
  const ends = new Map<number, number>();
  for (const [block, lane] of blocks) {
    const from = Math.max(0, xOf(scene, block.queued), ends.get(lane) ?? 0);
    const to = xOf(scene, block.started ?? block.queued);
    if (block.kind !== "lease") ends.set(lane, xOf(scene, block.ended ?? scene.now));
    if (to - from < 3) continue;
    ctx.fillRect(from, (lane + 0.5) * scene.laneHeight - 1.5, to - from, 2);
  }
  ctx.globalAlpha = 1;
}

function paintBlock(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  block: Block,
  lane: number,
  left: number,
  right: number,
): void {
  const { colours, laneHeight } = scene;
  const height = scene.blockHeight;
  const top = lane * laneHeight + Math.floor((laneHeight - 1 - height) / 2);
  const running = block.ended === null;
  if (block.kind === "lease") {
    ctx.fillStyle = running ? colours.busy : colours.finished;
    ctx.fillRect(left, (lane + 1) * laneHeight - 3, right - left, 2);
    return;
  }
  const outcome = block.outcome ?? "";
  // A hairline of ground between neighbours.
  const width = right - left > 3 ? right - left - 1 : right - left;
  if (CANCELLED.has(outcome)) {
    ctx.strokeStyle = colours.quiet;
    ctx.lineWidth = 1;
    box(ctx, left + 0.5, top + 0.5, Math.max(1, width - 1), height - 1);
    ctx.stroke();
  } else {
    ctx.fillStyle = running && !scene.stale ? colours.busy : colours.finished;
    box(ctx, left, top, width, height);
    ctx.fill();
  }
  const interrupting = running && isInterrupting(scene.model, lane);
  const hatched = TIMED_OUT.has(outcome) || interrupting;
  if (hatched) {
    hatch(ctx, left, top, width, height, colours.warn);
  } else if (DEATHS.has(outcome)) {
    cross(ctx, left + width, top + height / 2, Math.min(4, height / 2), colours.error);
  } else if (!running && outcome !== "ok" && !CANCELLED.has(outcome)) {
    const notch = Math.min(3, width);
    ctx.fillStyle = colours.error;
    ctx.fillRect(left + width - notch, top, notch, height);
  }
  if (width > LABEL && height >= 12 && !hatched)
    label(ctx, scene, block, left, width, top + height / 2);
  if (block.id === scene.selected) {
    ctx.strokeStyle = colours.text;
    ctx.lineWidth = 2;
    box(ctx, left - 1.5, top - 1.5, width + 3, height + 3);
    ctx.stroke();
  }
}

function isInterrupting(model: PoolModel, lane: number): boolean {
  return model.lanes[lane]?.worker?.state === "interrupting";
}

/** The first line of the code; what has slid out at the left does not take it along. */
function label(
  ctx: CanvasRenderingContext2D,
  scene: Scene,
  block: Block,
  left: number,
  width: number,
  middle: number,
): void {
  const from = Math.max(0, left) + 5;
  const room = Math.min(left + width, scene.width + scene.pad) - from - 5;
  if (room < 24) return;
  const { colours } = scene;
  ctx.save();
  ctx.beginPath();
  ctx.rect(from, middle - 9, room, 18);
  ctx.clip();
  ctx.font = colours.font;
  ctx.textBaseline = "middle";
  const running = block.ended === null && !scene.stale;
  ctx.fillStyle = CANCELLED.has(block.outcome ?? "")
    ? colours.quiet
    : running
      ? colours.onBusy
      : colours.onFinished;
  ctx.fillText(fitted(ctx, firstLine(block.code).slice(0, 200), room), from, middle + 0.5);
  ctx.restore();
}

/** As much of a text as there is room for. */
function fitted(ctx: CanvasRenderingContext2D, text: string, room: number): string {
  const wide = ctx.measureText(text).width;
  if (wide <= room) return text;
  return `${text.slice(0, Math.max(1, Math.floor((text.length * room) / wide) - 1))}…`;
}
