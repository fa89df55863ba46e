/** Orders to a kernel, asked about first where they do harm; failures become notifications. */

import { Dialog, Notification, showDialog } from "@jupyterlab/apputils";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { Command } from "../protocol";
import type { KernelLink } from "./link";
import { questionFor } from "./questions";

export class Orders {
  /** Whether to ask. */
  confirm = true;

  constructor(private readonly trans: TranslationBundle) {}

  /** Send an order; whether it was sent and accepted. */
  async give(link: KernelLink, pool: string, command: Command): Promise<boolean> {
    const question = this.confirm ? questionFor(command, pool, this.trans) : null;
    if (question !== null) {
      const { button } = await showDialog({
        title: question.title,
        body: question.body,
        buttons: [
          Dialog.cancelButton({ label: this.trans.__("Leave it") }),
          Dialog.warnButton({ label: question.button }),
        ],
      });
      if (!button.accept) return false;
    }
    try {
      await link.order(pool, command);
      return true;
    } catch (error) {
      this.fail(pool, error instanceof Error ? error.message : String(error));
      return false;
    }
  }

  /** Say why something was not done. */
  fail(pool: string, reason: string): void {
    Notification.error(this.trans.__("Pool “%1”: %2", pool, reason), { autoClose: 15_000 });
  }
}
