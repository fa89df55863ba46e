/** The theme's colours, as the style sheet resolves them, for what is painted rather than styled. */

export interface Colours {
  ground: string;
  line: string;
  text: string;
  quiet: string;
  busy: string;
  onBusy: string;
  finished: string;
  onFinished: string;
  error: string;
  warn: string;
  font: string;
  dark: boolean;
}

type Rgb = [number, number, number];

const known = new Map<string, Rgb>();
let probe: CanvasRenderingContext2D | null | undefined;

/** Any CSS colour as numbers: painted, and looked at. */
function parse(colour: string): Rgb {
  const cached = known.get(colour);
  if (cached) return cached;
  if (probe === undefined) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    probe = canvas.getContext("2d", { willReadFrequently: true });
  }
  if (!probe) return [128, 128, 128];
  probe.fillStyle = "#808080";
  probe.fillStyle = colour;
  probe.fillRect(0, 0, 1, 1);
  const [r = 0, g = 0, b = 0] = probe.getImageData(0, 0, 1, 1).data;
  known.set(colour, [r, g, b]);
  return [r, g, b];
}

function luminance([r, g, b]: Rgb): number {
  const linear = (value: number) => {
    const v = value / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
}

function mix(one: Rgb, other: Rgb, share: number): string {
  const [r, g, b] = one.map((value, i) =>
    Math.round(value * share + (other[i] ?? 0) * (1 - share)),
  );
  return `rgb(${r ?? 0}, ${g ?? 0}, ${b ?? 0})`;
}

/** Black or white, whichever reads better on a colour (WCAG 2, contrast ratio). */
function on(colour: string): string {
  const light = luminance(parse(colour));
  return 1.05 / (light + 0.05) >= (light + 0.05) / 0.05 ? "#ffffff" : "#000000";
}

export function readColours(host: Element): Colours {
  const style = getComputedStyle(host);
  const token = (name: string, otherwise: string) =>
    style.getPropertyValue(`--jpm-${name}`).trim() || otherwise;
  const ground = token("ground", "#ffffff");
  const busy = token("busy", "#1976d2");
  const groundRgb = parse(ground);
  const dark = luminance(groundRgb) < 0.2;
  // Success is calm: what has ended steps back towards the ground.
  const forced = globalThis.matchMedia("(forced-colors: active)").matches;
  const finished = forced
    ? token("finished", "GrayText")
    : mix(parse(token("finished", "#90caf9")), groundRgb, dark ? 0.3 : 0.75);
  return {
    ground,
    line: token("line", "#e0e0e0"),
    text: token("text", "#212121"),
    quiet: token("quiet", "#757575"),
    busy,
    onBusy: forced ? token("on-busy", "HighlightText") : on(busy),
    finished,
    onFinished: forced
      ? token("ground", "Canvas")
      : dark
        ? mix(parse(token("text", "#fff")), parse(finished), 0.8)
        : on(finished),
    error: token("error", "#d32f2f"),
    warn: token("warn", "#f57c00"),
    font: `${token("font-size", "11px")} ${style.fontFamily || "system-ui, sans-serif"}`,
    dark,
  };
}
