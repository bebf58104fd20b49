import { parser } from '@prometheus-io/lezer-promql';

export interface PromqlUse {
  /** Metric names of the selectors. */
  metrics: string[];
  /** Labels that are matched or grouped by. */
  labels: string[];
  /** Where the text is no PromQL; null if it is. */
  errorAt: number | null;
}

/** What a PromQL expression names, by Prometheus' own grammar. */
export const promqlUse = (expression: string): PromqlUse => {
  const use: PromqlUse = { metrics: [], labels: [], errorAt: null };
  parser.parse(expression).iterate({
    enter: (node) => {
      const text = expression.slice(node.from, node.to);
      if (node.type.isError) use.errorAt ??= node.from;
      if (node.name === 'Identifier' && node.node.parent?.name === 'VectorSelector') use.metrics.push(text);
      if (node.name === 'LabelName') use.labels.push(text);
    },
  });
  return use;
};
