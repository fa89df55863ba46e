/**
 * The notebook cells that have caused requests, and how a view has one shown.
 *
 * A view knows nothing of notebooks. In JupyterLab the panel's extension does, also for the views in
 * cells: it listens to an event, which bubbles up to it, and answers before the event is over. Where
 * nobody answers there is nothing to be offered.
 */

export interface Cells {
  /** Whether a cell can be shown; null: nobody here knows. */
  has(cell: string): boolean | null;
  /** Show it; false if it is gone. */
  show(cell: string): boolean;
}

const QUESTION = "jupyter-pool:cell";

interface Question {
  cell: string;
  show: boolean;
  answer: boolean | null;
}

/** The cells that somebody around an element knows. */
export function cellsAround(element: EventTarget): Cells {
  const ask = (cell: string, show: boolean): boolean | null => {
    const detail: Question = { cell, show, answer: null };
    element.dispatchEvent(new CustomEvent(QUESTION, { detail, bubbles: true, composed: true }));
    return detail.answer;
  };
  return {
    has: (cell) => ask(cell, false),
    show: (cell) => ask(cell, true) ?? false,
  };
}

/** Answer for the elements inside of `root` of which `find` knows the cells. */
export function answerForCells(root: EventTarget, find: (asking: Node) => Cells | null): void {
  root.addEventListener(QUESTION, (event) => {
    const { detail, target } = event as CustomEvent<Question>;
    const cells = target instanceof Node ? find(target) : null;
    if (cells !== null) {
      detail.answer = detail.show ? cells.show(detail.cell) : cells.has(detail.cell);
    }
  });
}
