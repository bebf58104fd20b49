import { once } from 'node:events';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import type { OptionValues } from 'commander';
import { TidemarkError } from '../src/domain/errors.ts';

// A reader that has seen enough (`| head`) is no failure: what it would have read is dropped.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

export const exitOk = 0;
export const exitFailed = 1;
/** A bad command line or a bad configuration. */
export const exitUsage = 2;

/** A script's command: a bad command line prints usage and exits 2. */
export const command = (name: string, description: string): Command =>
  new Command(name)
    .description(description)
    .helpOption('-h, --help', 'Show this help')
    .showHelpAfterError()
    .allowExcessArguments(false)
    .exitOverride();

/**
 * Parses, runs, and ends the process with the code that `run` gives. Expected failures are one message without a stack;
 * BAD_CONFIG and BAD_INPUT exit 2 as a bad command line does.
 */
export const runCommand = async <Options extends OptionValues>(program: Command, run: (options: Options, args: string[]) => Promise<number>): Promise<void> => {
  try {
    program.parse(process.argv);
    process.exitCode = await run(program.opts<Options>(), program.args);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? exitOk : exitUsage;
    } else if (error instanceof TidemarkError) {
      process.stderr.write(`${program.name()}: ${error.message}\n`);
      process.exitCode = error.code === 'BAD_CONFIG' || error.code === 'BAD_INPUT' ? exitUsage : exitFailed;
    } else {
      process.stderr.write(`${program.name()}: ${error instanceof Error ? error.stack ?? error.message : String(error)}\n`);
      process.exitCode = exitFailed;
    }
  }
};

/** Set by a process that starts one of these scripts with a pipe as stdin: the script stops when the pipe closes. */
export const stopsWithStdin = 'TIDEMARK_STOP_WITH_STDIN';

/** Aborts at the first Ctrl-C or SIGTERM; a second one ends the process at once. Also when the starting process is gone. */
export const stopSignal = (): AbortSignal => {
  const controller = new AbortController();
  if (process.env[stopsWithStdin] === '1') {
    process.stdin.resume().once('close', () => controller.abort(new Error('the process that started this one is gone')));
    // Waiting for the pipe to close keeps no process alive.
    if ('unref' in process.stdin) (process.stdin as NodeJS.ReadStream).unref();
  }
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(130);
      controller.abort(new Error(`stopped by ${name}`));
    });
  }
  return controller.signal;
};

/** Resolves when the signal aborts. Keeps the process alive until then: an event listener alone does not. */
export const untilStopped = async (signal: AbortSignal): Promise<void> => {
  if (signal.aborted) return;
  const alive = setInterval(() => undefined, 2 ** 30);
  await once(signal, 'abort');
  clearInterval(alive);
};

/** A plain table: left-aligned texts, right-aligned numbers, two spaces between columns. */
export const table = (head: readonly string[], rows: readonly (readonly (string | number | bigint | null)[])[]): string => {
  const cells = rows.map((row) => row.map((cell) => (cell === null ? '–' : typeof cell === 'string' ? cell : thousands(cell))));
  const right = head.map((_, column) => rows.some((row) => typeof row[column] === 'number' || typeof row[column] === 'bigint'));
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    row.map((cell, column) => (right[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!))).join('  ').trimEnd();
  return [line(head), line(widths.map((width) => '─'.repeat(width))), ...cells.map(line)].join('\n');
};

const durationUnits = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `30m`, `12h`, `7d` in milliseconds. For an option's parser: a bad one is a bad command line. */
export const parseDuration = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text);
  if (!match) throw new InvalidArgumentError('Expected a duration such as 90s, 30m, 12h or 7d.');
  return Math.round(Number(match[1]) * durationUnits[match[2] as keyof typeof durationUnits]);
};

/** Of an option or argument: a whole number from min to max. */
export const wholeNumber = (min: number, max = Number.MAX_SAFE_INTEGER) => (text: string): number => {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(value) || value < min || value > max) {
    throw new InvalidArgumentError(`Expected a whole number from ${min}${max === Number.MAX_SAFE_INTEGER ? '' : ` to ${max}`}.`);
  }
  return value;
};

export const thousands = (value: number | bigint): string => {
  const [whole, fraction] = String(value).split('.');
  const grouped = whole!.replace(/\B(?=(\d{3})+(?!\d))/g, ',');
  return fraction === undefined ? grouped : `${grouped}.${fraction}`;
};

/** Bytes of files: `37 KB`, `4.2 MB`, `180 MB`, `12 GB`. */
export const fileSize = (bytes: number): string => {
  const kib = bytes / 1024;
  if (kib < 1024) return `${Math.ceil(kib)} KB`;
  const [value, unit] = kib < 1024 * 1024 ? [kib / 1024, 'MB'] : [kib / 1024 / 1024, 'GB'];
  return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
};
export const megabytes = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(0)} MB`;
export const milliseconds = (ms: number | null): string => (ms === null ? '–' : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

/** One progress line, rewritten in place on a terminal, printed now and then elsewhere (logs of CI). On stderr. */
export class ProgressLine {
  private lastMs = 0;
  private shown = '';
  private readonly everyMs: number;

  constructor(everyMs = process.stderr.isTTY ? 200 : 5_000) {
    this.everyMs = everyMs;
  }

  show(text: string): void {
    const now = Date.now();
    if (now - this.lastMs < this.everyMs || text === this.shown) return;
    this.lastMs = now;
    this.shown = text;
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[2K${text}` : `${text}\n`);
  }

  /** Leaves a finished line behind. */
  done(text: string): void {
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[2K${text}\n` : `${text}\n`);
    this.lastMs = 0;
    this.shown = '';
  }
}
