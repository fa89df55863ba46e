/** A pool: three lanes with work in them. */

import { LabIcon } from "@jupyterlab/ui-components";

export const poolIcon = new LabIcon({
  name: "jupyter-pool:pool",
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16">
<g class="jp-icon3" fill="#616161">
<rect x="1" y="2" width="9" height="3" rx="1"/><rect x="5" y="6.5" width="10" height="3" rx="1"/>
<rect x="1" y="6.5" width="2.5" height="3" rx="1"/><rect x="3" y="11" width="6" height="3" rx="1"/>
</g></svg>`,
});
