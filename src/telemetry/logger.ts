import { pino } from 'pino';
import type { Logger } from 'pino';

export type { Logger } from 'pino';

/**
 * JSON lines on stderr, so that stdout stays free for a script's result. Fields that could hold a secret are cut.
 *
 * @param fields what the place of the call adds to each line: the activity that it is in, its trace.
 */
export const createLogger = (name: string, level: string, fields?: () => Record<string, unknown>): Logger =>
  pino({
    name,
    level,
    base: { pid: process.pid },
    ...(fields ? { mixin: fields } : {}),
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: ['secretAccessKey', '*.secretAccessKey', '*.*.secretAccessKey', 'authorization', '*.authorization'], remove: true },
  }, pino.destination({ fd: 2, sync: false }));
