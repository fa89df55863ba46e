/** What a view uses of browsers that happy-dom does not have: popovers, canvases, animations. */

import { vi } from "vitest";

const open = new WeakSet<Element>();

/** Let popovers open and close. */
export function givePopovers(): void {
  const matches = (element: Element, selector: string) =>
    Element.prototype.matches.call(element, selector);
  Object.assign(HTMLElement.prototype, {
    showPopover(this: HTMLElement) {
      open.add(this);
    },
    hidePopover(this: HTMLElement) {
      open.delete(this);
    },
    togglePopover(this: HTMLElement) {
      if (!open.delete(this)) open.add(this);
    },
    matches(this: HTMLElement, selector: string) {
      return selector === ":popover-open" ? open.has(this) : matches(this, selector);
    },
  });
}

export interface Moved {
  element: HTMLElement;
  frames: Keyframe[];
  options: KeyframeAnimationOptions;
  animation: { cancel: () => void; pause: () => void };
}

/** Let elements have a width, canvases paint nowhere, and animations be noted in what is returned. */
export function givePictures(width = 600): { moved: Moved[]; painted: Set<HTMLCanvasElement> } {
  const moved: Moved[] = [];
  const painted = new Set<HTMLCanvasElement>();
  vi.spyOn(HTMLElement.prototype, "clientWidth", "get").mockReturnValue(width);
  vi.spyOn(HTMLCanvasElement.prototype, "getContext").mockImplementation(function (
    this: HTMLCanvasElement,
  ) {
    const paint = () => painted.add(this);
    const nothing = () => ({ width: 0, data: [0, 0, 0, 255] });
    return new Proxy({} as CanvasRenderingContext2D, {
      get: (_, name) => (name === "fill" || name === "fillRect" ? paint : nothing),
      set: () => true,
    });
  });
  Object.assign(HTMLElement.prototype, {
    animate(this: HTMLElement, frames: Keyframe[], options: KeyframeAnimationOptions) {
      const animation = { cancel: vi.fn(), pause: vi.fn() };
      moved.push({ element: this, frames, options, animation });
      return animation;
    },
  });
  return { moved, painted };
}
