/** The centre of the monitor: a lane for each worker, with time flowing to the left. */

import type { Card } from "./card";
import type { Context } from "./context";
import { attribute, button, el, show, text } from "./dom";
import { Gutter } from "./gutter";
import { TILE, tileColumns } from "./overview";
import { extent, type Scene } from "./paint";
import { Picture } from "./picture";
import type { Block } from "./protocol";

export class Lanes {
  readonly element = el("div", "jpm-lanes");
  private readonly gutter: Gutter;
  private readonly picture: Picture;
  private readonly track: HTMLElement;
  private readonly option = el("div", "jpm-hidden", { role: "option", "aria-selected": "true" });
  private readonly spanButton: HTMLButtonElement;
  private readonly observer: ResizeObserver;
  private readonly themes: MutationObserver;
  /** The seconds that the lanes show, one after the other on a click. */
  private readonly spans: readonly number[];
  private span = 0;
  private selected: string | null = null;
  private selectedLane = 0;

  /** `redraw` is called when the picture must be a new one although no snapshot has come. */
  constructor(
    private readonly context: Context,
    private readonly card: Card,
    redraw: () => void,
  ) {
    const { model, words } = context;
    const { trans } = words;
    const shortest = Math.min(60, model.history);
    this.spans = [...new Set([shortest, model.history, 15])];
    this.gutter = new Gutter(context);
    this.picture = new Picture(context, this.element);
    const id = `jpm-option-${Math.random().toString(36).slice(2)}`;
    this.option.id = id;
    this.track = el("div", "jpm-track", {
      role: "listbox",
      tabindex: 0,
      "aria-label": trans.__("Requests. Arrow keys move, Enter opens, Delete cancels."),
      "aria-activedescendant": id,
    });
    this.track.append(this.picture.flow, this.option);
    this.spanButton = button("jpm-span", trans.__("Show another span of time"), "", () => {
      this.span = (this.span + 1) % this.spans.length;
      redraw();
    });
    const axis = el("div", "jpm-axis", {}, this.spanButton, el("span", "", {}, trans.__("now")));
    const scroller = el("div", "jpm-scroll", {}, this.gutter.element, this.track);
    this.element.append(this.picture.tiles, scroller, axis);
    this.track.addEventListener("pointermove", this.hover);
    this.track.addEventListener("pointerleave", () => {
      this.picture.thaw();
      this.unhover();
      redraw();
    });
    this.track.addEventListener("click", this.click);
    this.track.addEventListener("keydown", this.key);
    this.track.addEventListener("blur", this.unhover);
    this.picture.tiles.addEventListener("pointermove", this.hoverTile);
    this.observer = new ResizeObserver(redraw);
    this.observer.observe(this.track);
    // A theme's colours are there some time after its name.
    this.themes = new MutationObserver(() => {
      requestAnimationFrame(redraw);
    });
    this.themes.observe(document.body, { attributes: true });
  }

  dispose(): void {
    this.observer.disconnect();
    this.themes.disconnect();
    this.picture.dispose();
  }

  /** How far back the lanes reach at the moment, in seconds. */
  get seconds(): number {
    return this.spans[this.span] ?? 60;
  }

  /** Bring everything up to date; `force` as of `Picture.paint`. */
  render(force = false): void {
    const { model, words } = this.context;
    if (model.state === null) return;
    const { trans } = words;
    const { mode } = this.picture;
    const { now } = this;
    attribute(this.element, "data-mode", mode);
    show(this.picture.tiles, mode === "tiles");
    show(this.gutter.element, mode !== "tiles");
    const span = this.seconds;
    text(
      this.spanButton,
      span > 60 ? trans.__("%1 min ago", Math.round(span / 6) / 10) : trans.__("%1 s ago", span),
    );
    this.gutter.update(mode === "tiles" ? [] : model.lanes, now);
    this.describe(now);
    this.picture.paint(now, span, this.selected, force);
  }

  private get now(): number {
    return this.context.model.now(this.context.clock());
  }

  private get scene(): Scene {
    return this.picture.scene(this.now, this.seconds, this.selected);
  }

  /** For screen readers: the request that the keyboard is at. */
  private describe(now: number): void {
    const block = this.selectedBlock;
    if (!block) this.selected = null;
    const { trans } = this.context.words;
    text(this.option, block ? this.card.words(block, now) : trans.__("No request selected"));
  }

  // -- the pointer -----------------------------------------------------------------------------

  private readonly hover = (event: PointerEvent): void => {
    const { now } = this;
    this.picture.freeze(now);
    const block = this.blockAt(event);
    this.track.classList.toggle("jpm-over", block !== null);
    if (block === null) this.unhover();
    else this.card.open(block, event.clientX, event.clientY, now, false);
  };

  private readonly unhover = (): void => {
    if (!this.card.pinned) this.card.close();
  };

  private readonly click = (event: MouseEvent): void => {
    const block = this.blockAt(event);
    this.card.close();
    if (block === null) return;
    this.select(block);
    this.card.open(block, event.clientX, event.clientY, this.now, true);
  };

  private readonly hoverTile = (event: PointerEvent): void => {
    const { model, words } = this.context;
    const columns = tileColumns(this.element.clientWidth);
    const index = Math.floor(event.offsetY / TILE) * columns + Math.floor(event.offsetX / TILE);
    const worker = model.lanes[index]?.worker;
    this.picture.tiles.title = worker
      ? words.trans.__("Worker %1, %2", worker.id, words.worker(worker.state))
      : "";
  };

  /** The request under the pointer, or right beside it: the shortest are a pixel wide. */
  private blockAt(event: MouseEvent): Block | null {
    if (this.picture.mode === "tiles") return null;
    const place = this.track.getBoundingClientRect();
    const x = event.clientX - place.left;
    const lane = Math.floor((event.clientY - place.top) / this.picture.laneHeight);
    const { scene } = this;
    let best: Block | null = null;
    let nearest = 4;
    for (const block of this.context.model.inLane(lane)) {
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

  // -- the keyboard ----------------------------------------------------------------------------

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
    const current = this.selectedBlock;
    if (move) {
      const next = move();
      if (next) this.select(next);
    } else if (event.key === "Enter" && current) {
      this.openCard(current, true);
      this.card.focus();
    } else if (event.key === "Delete" && current?.ended === null) {
      this.context.send({ type: "cancel", request: current.id });
    } else if (event.key === "Escape" && this.card.isOpen()) {
      this.card.close();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // the notebook has its own use for arrows and Enter
  };

  private get selectedBlock(): Block | undefined {
    return this.selected === null ? undefined : this.context.model.blocks.get(this.selected);
  }

  /** The requests of a lane that are in the picture. */
  private shown(lane: number): Block[] {
    const oldest = this.now - this.seconds;
    const blocks = this.context.model.inLane(lane);
    return blocks.filter((block) => (block.ended ?? Infinity) > oldest);
  }

  private beside(step: number): Block | undefined {
    const blocks = this.shown(this.selectedLane);
    const at = blocks.findIndex((block) => block.id === this.selected);
    return at < 0 ? blocks.at(-1) : blocks[Math.max(0, Math.min(blocks.length - 1, at + step))];
  }

  /** The request of another lane that is nearest in time. */
  private above(step: number): Block | undefined {
    const from = this.selectedBlock;
    const when = from?.started ?? this.now;
    for (let lane = this.selectedLane + step; this.context.model.lanes[lane]; lane += step) {
      const blocks = this.shown(lane);
      if (blocks.length === 0) continue;
      const distance = (block: Block) => Math.abs((block.started ?? 0) - when);
      return blocks.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    }
    return from;
  }

  private select(block: Block): void {
    this.selected = block.id;
    this.selectedLane = this.context.model.laneOf(block) ?? 0;
    this.card.close();
    this.render(true);
    if (this.track.matches(":focus-visible")) this.openCard(block, false);
  }

  private openCard(block: Block, pinned: boolean): void {
    const place = this.track.getBoundingClientRect();
    const [left] = extent(this.scene, block);
    const y = place.top + (this.selectedLane + 1) * this.picture.laneHeight - 8;
    this.card.open(block, place.left + Math.max(0, left), y, this.now, pinned);
  }
}
