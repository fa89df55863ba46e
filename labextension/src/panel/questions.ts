/** What to ask before an order does harm. */

import type { TranslationBundle } from "@jupyterlab/translation";
import type { Command } from "../protocol";

export interface Question {
  title: string;
  body: string;
  button: string;
}

/** What to ask before an order is sent; null: it does no harm. */
export function questionFor(
  command: Command,
  pool: string,
  trans: TranslationBundle,
): Question | null {
  switch (command.type) {
    case "stop":
      return {
        title: trans.__("Stop pool “%1”?", pool),
        body: trans.__("What waits and what runs is cancelled, and its workers end."),
        button: trans.__("Stop"),
      };
    case "restart":
      return {
        title: trans.__("Restart worker %1?", command.worker),
        body: trans.__("What it runs is lost. The other workers go on."),
        button: trans.__("Restart"),
      };
    case "cancel":
      return {
        title: trans.__("Cancel this request?"),
        body: trans.__("If it runs, it is interrupted. The other requests go on."),
        button: trans.__("Cancel the request"),
      };
    case "end_session":
      return {
        title: trans.__("End session “%1”?", command.session),
        body: trans.__("What was counted for it is forgotten. Its requests go on."),
        button: trans.__("End"),
      };
    default:
      return null;
  }
}
