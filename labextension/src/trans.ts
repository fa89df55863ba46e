/** Texts in people's languages: translated by JupyterLab, in English elsewhere. */

type Value = string | number;

/** What of JupyterLab's translation bundles is used here. `%1` stands for the first value. */
export interface Trans {
  __(text: string, ...values: Value[]): string;
  /** In the singular or the plural; `%1` stands for the number. */
  _n(one: string, many: string, n: number, ...values: Value[]): string;
}

function filled(text: string, values: Value[]): string {
  return text.replace(/%(\d)/g, (_, n: string) => String(values[Number(n) - 1] ?? ""));
}

export const english: Trans = {
  __: (text, ...values) => filled(text, values),
  _n: (one, many, n, ...values) => filled(n === 1 ? one : many, [n, ...values]),
};
