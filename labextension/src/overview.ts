/** Paints what is shown of very many workers: a tile for each, and the load over time. */

import { TAKEN } from "./model";
import { type Scene, xOf } from "./paint";
import { cross, hatch } from "./shapes";

export const TILE = 12;

export function tileColumns(width: number): number {
  return Math.max(1, Math.floor(width / TILE));
}

/** One tile for each worker, where there are too many for lanes. */
export function paintTiles(ctx: CanvasRenderingContext2D, scene: Scene, width: number): void {
  const { model, colours, stale } = scene;
  const columns = tileColumns(width);
  ctx.clearRect(0, 0, width, Math.ceil(model.lanes.length / columns) * TILE);
  model.lanes.forEach((lane, index) => {
    const x = (index % columns) * TILE + 1;
    const y = Math.floor(index / columns) * TILE + 1;
    const edge = TILE - 3;
    const state = lane.worker?.state;
    ctx.lineWidth = 1;
    ctx.setLineDash(state === "starting" ? [2, 2] : []);
    if (lane.died) {
      cross(ctx, x + edge / 2, y + edge / 2, 3, colours.error);
    } else if (state === "interrupting") {
      hatch(ctx, x, y, edge, edge, colours.warn);
    } else if (state !== undefined && TAKEN.has(state) && !stale) {
      ctx.fillStyle = colours.busy;
      ctx.fillRect(x, y, edge, edge);
    } else {
      ctx.strokeStyle = state === "starting" ? colours.quiet : colours.line;
      ctx.strokeRect(x + 0.5, y + 0.5, edge - 1, edge - 1);
    }
    ctx.setLineDash([]);
  });
}

/** How many workers were busy over time, as one lane; above its line, what waited. */
export function paintLoad(ctx: CanvasRenderingContext2D, scene: Scene, height: number): void {
  const { model, colours, width, pad } = scene;
  ctx.clearRect(0, 0, width + pad, height);
  const capacity = Math.max(1, model.lanes.length);
  const { samples } = model;
  ctx.fillStyle = colours.finished;
  ctx.strokeStyle = colours.busy;
  ctx.lineWidth = 1.5;
  const floor = height - 1;
  const y = (taken: number) => floor - (Math.min(taken, capacity) / capacity) * (height - 6);
  const line = new Path2D();
  let last = { x: 0, y: floor };
  let begun = false;
  for (const sample of samples) {
    const x = xOf(scene, sample.at);
    const next = { x: Math.max(0, x), y: y(sample.taken) };
    if (!begun || x < 0) line.moveTo(next.x, next.y);
    else {
      line.lineTo(next.x, last.y);
      line.lineTo(next.x, next.y);
    }
    begun = true;
    last = next;
  }
  line.lineTo(width + pad, last.y);
  const area = new Path2D(line);
  area.lineTo(width + pad, floor);
  area.lineTo(Math.max(0, xOf(scene, samples[0]?.at ?? scene.now)), floor);
  ctx.fill(area);
  ctx.stroke(line);
  ctx.fillStyle = colours.line;
  ctx.fillRect(0, floor, width + pad, 1);
  ctx.fillStyle = colours.warn;
  samples.forEach((sample, index) => {
    if (!sample.waiting) return;
    const x = xOf(scene, sample.at);
    const until = xOf(scene, samples[index + 1]?.at ?? scene.now);
    if (until > 0) ctx.fillRect(Math.max(0, x), 0, Math.max(1, until - x), 2);
  });
}
