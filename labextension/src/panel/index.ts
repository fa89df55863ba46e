/** JupyterLab's plugin: the panel, its status bar item and its commands. */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin,
} from "@jupyterlab/application";
import { ICommandPalette } from "@jupyterlab/apputils";
import { IConsoleTracker } from "@jupyterlab/console";
import { INotebookTracker } from "@jupyterlab/notebook";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { IStatusBar } from "@jupyterlab/statusbar";
import { ITranslator, nullTranslator } from "@jupyterlab/translation";
import { answerForCells } from "../cells";
import { Commands } from "./commands";
import { Follower } from "./follow";
import { Notebooks } from "./notebooks";
import { Orders } from "./orders";
import { PoolPanel } from "./panel";
import { readSettings } from "./settings";
import { StatusItem } from "./status";

const ID = "jupyter-pool:panel";
/** Below the property inspector and the debugger. */
const RANK = 900;

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: "Shows the pools of the current notebook's kernel, live.",
  autoStart: true,
  optional: [
    INotebookTracker,
    IConsoleTracker,
    ISettingRegistry,
    ICommandPalette,
    IStatusBar,
    ILayoutRestorer,
    ITranslator,
  ],
  activate: (
    app: JupyterFrontEnd,
    notebooks: INotebookTracker | null,
    consoles: IConsoleTracker | null,
    registry: ISettingRegistry | null,
    palette: ICommandPalette | null,
    statusBar: IStatusBar | null,
    restorer: ILayoutRestorer | null,
    translator: ITranslator | null,
  ): void => {
    const trans = (translator ?? nullTranslator).load("jupyter_pool");
    const follower = new Follower(app.shell, notebooks, consoles);
    const orders = new Orders(trans);
    const panel = new PoolPanel(follower, orders, trans);
    const cells = new Notebooks(app.shell, notebooks);
    answerForCells(document, (asking) => {
      const kernel = follower.current?.link?.kernel;
      if (!panel.node.contains(asking)) return cells.around(asking);
      return kernel ? cells.ofKernel(kernel.id) : null;
    });
    const open = () => {
      app.shell.activateById(panel.id);
    };
    let side = "right";
    app.shell.add(panel, side, { rank: RANK });
    restorer?.add(panel, panel.id);
    new Commands(app, follower, orders, cells, trans, open).register(palette);

    const status = new StatusItem(follower, trans, open);
    statusBar?.registerStatusItem(ID, {
      item: status,
      align: "left",
      rank: 100,
      isActive: () => status.isActive,
      activeStateChanged: status.activeChanged,
    });

    const configure = (settings: ISettingRegistry.ISettings) => {
      const chosen = readSettings(settings.composite);
      orders.confirm = chosen.confirm;
      status.enabled = chosen.statusBar;
      panel.configure(chosen);
      if (chosen.side !== side) {
        side = chosen.side;
        app.shell.add(panel, side, { rank: RANK });
      }
    };
    void registry?.load(ID).then(
      (settings) => {
        configure(settings);
        settings.changed.connect(configure);
      },
      (reason: unknown) => {
        console.warn(`jupyter-pool: the settings cannot be read: ${String(reason)}`);
      },
    );
  },
};

export default plugin;
