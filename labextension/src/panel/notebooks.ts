/** Cells of the notebooks that are open: whether they are still there, and showing them. */

import type { JupyterFrontEnd } from "@jupyterlab/application";
import {
  type INotebookTracker,
  NotebookActions,
  type Notebook,
  type NotebookPanel,
} from "@jupyterlab/notebook";
import type { Cells } from "../cells";

export class Notebooks {
  constructor(
    private readonly shell: JupyterFrontEnd.IShell,
    private readonly tracker: INotebookTracker | null,
  ) {}

  /** The cells of the notebooks that use a kernel; null: none is open. */
  ofKernel(id: string): Cells | null {
    if (this.using(id).length === 0) return null;
    return {
      has: (cell) => this.find(id, cell) !== null,
      show: (cell) => {
        const found = this.find(id, cell);
        if (found === null) return false;
        this.shell.activateById(found.panel.id);
        void select(found.panel.content, found.index);
        return true;
      },
    };
  }

  /** The same of the notebook that an element is in. */
  around(node: Node): Cells | null {
    const panel = this.tracker?.find(({ node: root }) => root.contains(node));
    const kernel = panel?.sessionContext.session?.kernel;
    return kernel ? this.ofKernel(kernel.id) : null;
  }

  private using(kernel: string): NotebookPanel[] {
    return (
      this.tracker?.filter(({ sessionContext }) => sessionContext.session?.kernel?.id === kernel) ??
      []
    );
  }

  private find(kernel: string, cell: string): { panel: NotebookPanel; index: number } | null {
    for (const panel of this.using(kernel)) {
      const index = panel.content.widgets.findIndex(({ model }) => model.id === cell);
      if (index >= 0) return { panel, index };
    }
    return null;
  }
}

async function select(notebook: Notebook, index: number): Promise<void> {
  const cell = notebook.widgets[index];
  if (cell === undefined) return;
  NotebookActions.expandParent(cell, notebook); // it may be below a collapsed heading
  notebook.mode = "command";
  notebook.deselectAll();
  notebook.activeCellIndex = index;
  notebook.activate();
  await notebook.scrollToItem(index, "smart");
}
