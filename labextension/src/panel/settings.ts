/** What people may choose, see `settings/panel.json`. */

export interface Settings {
  side: "left" | "right";
  /** Seconds. */
  history: number;
  /** Pictures per second. */
  updateRate: number;
  confirm: boolean;
  statusBar: boolean;
}

export const DEFAULTS: Readonly<Settings> = {
  side: "right",
  history: 300,
  updateRate: 4,
  confirm: true,
  statusBar: true,
};

export function readSettings(composite: Readonly<Record<string, unknown>>): Settings {
  const { side, history, updateRate, confirm, statusBar } = composite;
  return {
    side: side === "left" ? "left" : "right",
    history: typeof history === "number" ? history : DEFAULTS.history,
    updateRate: typeof updateRate === "number" ? updateRate : DEFAULTS.updateRate,
    confirm: typeof confirm === "boolean" ? confirm : DEFAULTS.confirm,
    statusBar: typeof statusBar === "boolean" ? statusBar : DEFAULTS.statusBar,
  };
}
