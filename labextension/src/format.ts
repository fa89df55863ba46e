/** Figures as words, short and of steady width. */

/** A duration: `850 ms`, `1.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`. */
export function duration(seconds: number): string {
  const value = Math.max(0, seconds);
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 0.9995) return `${(value * 1000).toFixed(0)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 59.5) return `${value.toFixed(0)} s`;
  const whole = Math.round(value);
  if (whole < 3600) return join(Math.floor(whole / 60), "min", whole % 60, "s");
  return join(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min");
}

function join(large: number, one: string, small: number, other: string): string {
  return small ? `${large} ${one} ${small} ${other}` : `${large} ${one}`;
}

/** A duration that goes on, in little room: `0.8 s`, `12 s`, `3:20`, `1:05:00`. */
export function elapsed(seconds: number): string {
  const value = Math.max(0, seconds);
  if (value < 59.5) return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} s`;
  const whole = Math.round(value);
  const two = (n: number) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** How long ago, roughly: `just now`, `40 s ago`, `3 min ago`. */
export function ago(seconds: number): string {
  if (seconds < 2) return "just now";
  if (seconds < 59.5) return `${Math.round(seconds)} s ago`;
  if (seconds < 3570) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

/** A size in decimal units: `54 MB`, `1.2 GB`. */
export function size(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toPrecision(bytes < 9.95e9 ? 2 : 3)} GB`;
  if (bytes >= 1e6) return `${Math.round(bytes / 1e6)} MB`;
  return `${Math.round(bytes / 1e3)} kB`;
}

/** A rate: `41/s`, `0.4/s`. */
export function rate(perSecond: number): string {
  return `${perSecond < 9.95 ? perSecond.toFixed(1) : Math.round(perSecond)}/s`;
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n} ${n === 1 ? one : many}`;
}

/** The time of day, as `12:31:04`. */
export function clock(unix: number): string {
  return new Date(unix * 1000).toTimeString().slice(0, 8);
}

export function firstLine(text: string): string {
  return (text.split("\n", 1)[0] ?? "").trim();
}

const OUTCOMES: Record<string, string> = {
  ok: "done",
  failed: "failed",
  operation_timeout: "timed out",
  checkout_timeout: "no worker in time",
  cancelled: "cancelled",
  restarted: "worker restarted",
  worker_died: "worker died",
  memory_limit_exceeded: "too much memory",
  protocol_error: "worker failed",
  start_failed: "no worker could start",
  saturated: "refused, too many waiting",
  closed: "pool closed",
};

export function outcome(name: string | null): string {
  return name === null ? "running" : (OUTCOMES[name] ?? name.replaceAll("_", " "));
}
