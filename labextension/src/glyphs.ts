/** The marks of states: told apart by shape, then by colour. */

export type Mark = "starting" | "idle" | "busy" | "warn" | "died" | "spare" | "stopping";

const SVG = "http://www.w3.org/2000/svg";

const SHAPES: Record<Mark, [string, Record<string, string>]> = {
  starting: ["circle", { cx: "6", cy: "6", r: "4", "stroke-dasharray": "2.1 2.1" }],
  idle: ["circle", { cx: "6", cy: "6", r: "4" }],
  spare: ["circle", { cx: "6", cy: "6", r: "2" }],
  busy: ["circle", { cx: "6", cy: "6", r: "4.5" }],
  warn: ["path", { d: "M6 1.5 L11 10.5 L1 10.5 Z" }],
  died: ["path", { d: "M2.5 2.5 L9.5 9.5 M2.5 9.5 L9.5 2.5" }],
  stopping: ["path", { d: "M2.5 6 L9.5 6" }],
};

export function glyph(): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("class", "jpm-glyph");
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

export function setGlyph(svg: SVGSVGElement, mark: Mark): void {
  if (svg.dataset.mark === mark) return;
  svg.dataset.mark = mark;
  const [tag, attributes] = SHAPES[mark];
  const shape = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  svg.replaceChildren(shape);
}

export function markOf(state: string | undefined, died: boolean): Mark {
  switch (state) {
    case undefined:
      return died ? "died" : "stopping";
    case "starting":
      return died ? "died" : "starting";
    case "busy":
    case "leased":
    case "resetting":
    case "setting up":
      return "busy";
    case "interrupting":
      return "warn";
    case "standby":
      return "spare";
    case "stopping":
      return "stopping";
    default:
      return "idle";
  }
}
