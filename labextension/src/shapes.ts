/** Shapes that blocks and tiles are painted with. */

export function box(
  ctx: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
): void {
  ctx.beginPath();
  if (width > 4) ctx.roundRect(x, y, width, height, 2);
  else ctx.rect(x, y, width, height);
}

export function hatch(
  ctx: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  colour: string,
): void {
  ctx.save();
  box(ctx, x, y, width, height);
  ctx.clip();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 2;
  ctx.beginPath();
  const end = Math.min(x + width, x + 4000);
  for (let at = x - height; at < end; at += 6) {
    ctx.moveTo(at, y + height);
    ctx.lineTo(at + height, y);
  }
  ctx.stroke();
  ctx.restore();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1;
  box(ctx, x + 0.5, y + 0.5, Math.max(1, width - 1), height - 1);
  ctx.stroke();
}

export function cross(
  ctx: CanvasRenderingContext2D,
  x: number,
  y: number,
  arm: number,
  colour: string,
): void {
  ctx.strokeStyle = colour;
  ctx.lineWidth = 2;
  ctx.beginPath();
  ctx.moveTo(x - arm, y - arm);
  ctx.lineTo(x + arm, y + arm);
  ctx.moveTo(x - arm, y + arm);
  ctx.lineTo(x + arm, y - arm);
  ctx.stroke();
}
