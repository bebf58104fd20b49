/**
 * The value of an unlabelled series in Prometheus' text format; null if it is not there. Enough for the pages of our own
 * processes: no parser of the whole format.
 */
export const sampleValue = (text: string, name: string): number | null => {
  const match = new RegExp(`^${name} (\\S+)$`, 'm').exec(text);
  const value = match ? Number(match[1]) : Number.NaN;
  return Number.isNaN(value) ? null : value;
};
