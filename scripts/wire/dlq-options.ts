import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import type { DlqSelection, DlqState } from '../../src/contracts/dlq-replay.ts';
import { dlqStates } from '../../src/contracts/dlq-replay.ts';
import { utcMs } from '../../src/domain/utc-time.ts';
import { wholeNumber } from '../cli.ts';

/** What the commands select DLQ rows by. */
export interface SelectionOptions {
  source: string;
  from?: string;
  until?: string;
  errorType?: string[];
  reason?: string[];
  fromSchema?: number[];
  record?: string[];
  state?: DlqState[];
}

const texts = (text: string, before: string[] = []): string[] => [...before, ...text.split(',').map((part) => part.trim()).filter((part) => part !== '')];
const places = (text: string, before: string[] = []): string[] => [...before, text];
const states = (text: string, before: DlqState[] = []): DlqState[] => texts(text, before).map((state) => {
  if (!dlqStates.includes(state as DlqState)) throw new InvalidArgumentError(`Expected ${dlqStates.join(', ')}.`);
  return state as DlqState;
});
const ids = (text: string, before: number[] = []): number[] => texts(text).reduce((list, part) => [...list, wholeNumber(0)(part)], before);
const moment = (text: string): string => {
  if (utcMs(text) === undefined) throw new InvalidArgumentError('Expected a date or time as ISO 8601 has it, e.g. 2026-11-21 or 2026-11-21T13:00:00Z.');
  return text;
};

export const withSelection = (program: Command, { wantsSource = true } = {}): Command => program
  .addOption(new Option('--source <name>', 'The source whose rejected records are meant').makeOptionMandatory(wantsSource))
  .option('--from <time>', 'Kafka timestamp from here on, ISO 8601, UTC without a zone', moment)
  .option('--until <time>', 'Kafka timestamp below this', moment)
  .option('--error-type <names>', 'Only these error types, comma-separated; repeatable', texts)
  .option('--reason <names>', 'Only records with one of these reasons, comma-separated; repeatable', texts)
  .option('--from-schema <ids>', 'Only records whose bytes name one of these schema ids, comma-separated; repeatable', ids)
  .option('--record <place>', 'Only this record, <topic>/<partition>/<offset>, in whatever state it is; repeatable', places)
  .option('--state <names>', `Only records in these states (${dlqStates.join(', ')}), comma-separated; repeatable. Default: open`, states);

export const selectionOf = ({ source, from, until, errorType, reason, fromSchema, record, state }: SelectionOptions): DlqSelection => ({
  source,
  ...(from === undefined ? {} : { from }), ...(until === undefined ? {} : { until }), ...(errorType ? { errorTypes: errorType } : {}), ...(reason ? { reasons: reason } : {}),
  ...(fromSchema ? { schemaIds: fromSchema } : {}), ...(record ? { records: record } : {}), ...(state ? { states: state } : {}),
});
