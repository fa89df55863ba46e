/** Small helpers that touch the page only where something has changed. */

import type { Trans } from "./trans";

type Attributes = Record<string, string | number | boolean | undefined>;

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) attribute(node, name, value);
  node.append(...children);
  return node;
}

export function attribute(
  node: Element,
  name: string,
  value: string | number | boolean | undefined,
): void {
  if (value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

export function text(node: Element, value: string): void {
  if (node.textContent !== value) node.textContent = value;
}

export function show(node: HTMLElement, shown: boolean): void {
  if (node.hidden === shown) node.hidden = !shown;
}

export function button(
  className: string,
  label: string,
  content: string,
  onClick: () => void,
): HTMLButtonElement {
  const node = el("button", className, { type: "button", title: label, "aria-label": label });
  node.textContent = content;
  node.addEventListener("click", (event) => {
    event.stopPropagation();
    onClick();
  });
  return node;
}

/** Put `text` on the clipboard and say so on the button for a moment. */
export async function copy(node: HTMLButtonElement, text: string, trans: Trans): Promise<void> {
  // Pressed again meanwhile, it says something else already.
  const before = (node.dataset.content ??= node.textContent);
  try {
    await navigator.clipboard.writeText(text);
    node.textContent = trans.__("Copied");
  } catch {
    node.textContent = trans.__("Not allowed here");
  }
  setTimeout(() => {
    node.textContent = before;
  }, 1500);
}
