const isoDate = /^\d{4}-\d\d-\d\d$/;
const isoTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?$/;
const zone = /(Z|[+-]\d\d:\d\d)$/;

/** A date or time as ISO 8601 has it, in ms since the epoch; without a zone it is UTC, as in the tables, wherever the operator sits. Undefined: it is none. */
export const utcMs = (text: string): number | undefined => {
  if (!isoDate.test(text) && !isoTime.test(text)) return undefined;
  const ms = Date.parse(isoDate.test(text) || zone.test(text) ? text : `${text}Z`);
  return Number.isNaN(ms) ? undefined : ms;
};
