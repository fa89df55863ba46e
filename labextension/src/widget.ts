/** The monitor as an anywidget: its model is in the kernel, its state arrives as a trait. */

import "../style/monitor.css";
import { type Command, isPoolState, isRefusal } from "./protocol";
import { createMonitor } from "./view";

/** What of anywidget's model is used here. */
export interface WidgetModel {
  get(name: "pool_state"): unknown;
  on(name: string, callback: (value: unknown) => void): void;
  off(name: string, callback: (value: unknown) => void): void;
  send(message: Command): void;
}

function render({ model, el }: { model: WidgetModel; el: HTMLElement }): () => void {
  const view = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  const first = model.get("pool_state");
  const monitor = createMonitor(el, {
    state: isPoolState(first) ? first : null,
    send: (command) => {
      model.send(command);
    },
  });
  const changed = () => {
    const state = model.get("pool_state");
    if (isPoolState(state)) monitor.update(state);
  };
  const heard = (message: unknown) => {
    if (isRefusal(message)) monitor.refuse(message.text);
  };
  const leave = () => {
    try {
      model.send({ type: "close", view });
    } catch {
      // The kernel has gone, and with it who is told.
    }
  };
  model.on("change:pool_state", changed);
  model.on("msg:custom", heard);
  globalThis.addEventListener("pagehide", leave);
  model.send({ type: "open", view });
  return () => {
    model.off("change:pool_state", changed);
    model.off("msg:custom", heard);
    globalThis.removeEventListener("pagehide", leave);
    monitor.dispose();
    leave();
  };
}

export default { render };
