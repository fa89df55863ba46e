// @vitest-environment happy-dom
import { expect, it } from "vitest";
import type { Command } from "../src/protocol";
import widget, { type WidgetModel } from "../src/widget";
import { snapshot } from "./example";

/** As much of anywidget's model as the widget uses. */
class Model implements WidgetModel {
  sent: Command[] = [];
  state: unknown = snapshot();
  readonly listeners = new Map<string, Set<(value: unknown) => void>>();

  get(): unknown {
    return this.state;
  }

  on(name: string, callback: (value: unknown) => void): void {
    this.listeners.set(name, (this.listeners.get(name) ?? new Set()).add(callback));
  }

  off(name: string, callback: (value: unknown) => void): void {
    this.listeners.get(name)?.delete(callback);
  }

  send(message: Command): void {
    this.sent.push(message);
  }

  tell(name: string, value: unknown): void {
    for (const callback of this.listeners.get(name) ?? []) callback(value);
  }
}

it("says when its view comes and goes, and follows the model in between", () => {
  const model = new Model();
  const el = document.createElement("div");
  document.body.append(el);
  const dispose = widget.render({ model, el });
  const [opened] = model.sent;
  expect(opened?.type).toBe("open");
  model.state = snapshot({ pool: "renamed" });
  model.tell("change:pool_state", undefined);
  expect(el.querySelector(".jpm-name")?.textContent).toBe("renamed");
  model.tell("msg:custom", { type: "refused", text: "not now" });
  expect(el.querySelector(".jpm-notice")?.textContent).toBe("not now");
  model.state = { from: "another version" };
  model.tell("change:pool_state", undefined);
  expect(el.querySelector(".jpm-name")?.textContent).toBe("renamed");
  dispose();
  expect(model.sent.at(-1)).toEqual({ ...opened, type: "close" });
  expect(el.childElementCount).toBe(0);
  expect([...model.listeners.values()].every((callbacks) => callbacks.size === 0)).toBe(true);
  el.remove();
});
