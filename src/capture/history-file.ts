import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { TidemarkError } from '../domain/errors.ts';
import type { ColumnValues } from '../lake/columns.ts';
import { openParquet, readColumns } from '../lake/parquet-reader.ts';
import type { ByteSource, ParquetFile } from '../lake/parquet-reader.ts';
import { contentOf, formOfFile } from './file-content.ts';
import type { FileForm } from './file-content.ts';
import type { CapturedBinanceTrade } from './frame.ts';

/*
 * Binance's historical trade files (data.binance.vision): CSV of id, price, qty, quote_qty, time, is_buyer_maker and, of
 * spot, is_best_match; with a header or without, times in ms or (spot, since 2025) µs; packed by gzip or ZIP or not at all;
 * and Parquet with the same columns.
 */

/** What a line holds: a trade, or why it is none, and then its bytes. */
export type HistoryLine =
  | { line: number; trade: CapturedBinanceTrade; problem?: undefined }
  | { line: number; trade?: undefined; problem: string; bytes: Uint8Array };

export interface HistoryFile {
  path: string;
  form: FileForm;
  byteLength: number;
  symbol: string;
  market: string;
  /**
   * SHA-256 over the content and over what the lines are taken for (market and symbol), hex: the same file imported as
   * another symbol is another import.
   */
  checksum: string;
  /** Lines of a CSV, its header among them; rows of a Parquet file. */
  lines: number;
  trades: number;
  bad: number;
  /** The first bad ones. */
  problems: { line: number; problem: string }[];
  firstTimeMs: number | null;
  lastTimeMs: number | null;
}

export const markets = ['spot', 'usdm', 'coinm', 'us'] as const;

const lineBytesMax = 64 * 1024;
const problemsShown = 5;
/** A file whose first lines are all bad is not what it was taken for. */
const probedLines = 1_000;
/** Parquet is read by row groups: one of them has to fit into memory. */
const rowGroupBytesMax = 256 * 1024 * 1024;
const batchLines = 4_096;

type Column = 'id' | 'price' | 'qty' | 'quote_qty' | 'time' | 'is_buyer_maker' | 'is_best_match';
const columnsInOrder: readonly Column[] = ['id', 'price', 'qty', 'quote_qty', 'time', 'is_buyer_maker', 'is_best_match'];
const required: readonly Column[] = ['id', 'price', 'qty', 'time', 'is_buyer_maker'];
/** As they are called here and there, in lower case without underscores. */
const aliases: Readonly<Record<string, Column>> = {
  id: 'id', tradeid: 'id', price: 'price', qty: 'qty', quantity: 'qty', quoteqty: 'quote_qty', baseqty: 'quote_qty', time: 'time', timestamp: 'time', tradetime: 'time',
  isbuyermaker: 'is_buyer_maker', isbestmatch: 'is_best_match',
};
const columnOf = (name: string): Column | undefined => aliases[name.trim().toLowerCase().replaceAll('_', '')];

/** `BTCUSDT-trades-2023-10-01.csv.gz` → BTCUSDT; undefined for other names. */
export const symbolOfFileName = (path: string): string | undefined => /^([A-Z0-9]+(?:_[A-Z0-9]+)?)-trades-/.exec(basename(path))?.[1];

const integer = /^\d{1,19}$/;
const int64Max = 2n ** 63n - 1n;
/** Below, it would be ms before 1973; above, ms past the year 5138, and so µs. */
const msMin = 1e11;
const microsMin = 1e14;
const microsMax = 1e17;

interface Place { market: string; symbol: string }
/** The texts of a line by column; `extra`: the columns that a trade has no place for. */
interface LineFields { fields: Partial<Record<Column, string>>; extra: Record<string, string> }

const booleanOf = (text: string): boolean | undefined => (/^(true|1)$/i.test(text) ? true : /^(false|0)$/i.test(text) ? false : undefined);

/** The trade of a line, or what is wrong with it. Prices and quantities stay text: the rules judge them. */
const tradeOf = ({ fields, extra }: LineFields, { market, symbol }: Place): CapturedBinanceTrade | string => {
  for (const name of required) if ((fields[name] ?? '') === '') return `expected ${name}, found nothing`;
  const { id = '', price = '', qty = '', time = '', quote_qty: quoteQty, is_best_match: bestMatch } = fields;
  if (!integer.test(id) || BigInt(id) > int64Max) return `expected a 64-bit number as id, found ${shown(id)}`;
  const clock = Number(time);
  if (!integer.test(time) || clock < msMin || clock >= microsMax) return `expected milliseconds or microseconds as time, found ${shown(time)}`;
  const micros = clock < microsMin ? clock * 1_000 : clock;
  const isBuyerMaker = booleanOf(fields.is_buyer_maker ?? '');
  if (isBuyerMaker === undefined) return `expected true or false as is_buyer_maker, found ${shown(fields.is_buyer_maker ?? '')}`;
  const isBestMatch = bestMatch === undefined || bestMatch === '' ? null : booleanOf(bestMatch);
  if (isBestMatch === undefined) return `expected true or false as is_best_match, found ${shown(bestMatch ?? '')}`;
  const ms = Math.floor(micros / 1_000);
  const tradeId = Number(id);
  return {
    event_type: 'trade', event_time_ms: ms, symbol, trade_id: Number.isSafeInteger(tradeId) ? tradeId : BigInt(id), price, quantity: qty, trade_time_ms: ms,
    is_buyer_maker: isBuyerMaker, is_best_match: isBestMatch,
    // For the rules: nobody received it, and its age must not tell.
    ingestion_timestamp: micros,
    market, native_id: null,
    extra: { ...extra, ...(quoteQty === undefined ? {} : { quote_qty: quoteQty }), ...(clock < microsMin ? {} : { time }) },
  };
};

const shown = (text: string): string => JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);

// --- CSV

/** Lines without their ends, whole, in pieces; the last one also without an end. */
async function* linesOf(path: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer[]> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of chunks) {
    const text = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const lines: Buffer[] = [];
    let at = 0;
    for (let end = text.indexOf(10, at); end !== -1; end = text.indexOf(10, at)) {
      lines.push(text.subarray(at, end > at && text[end - 1] === 13 ? end - 1 : end));
      at = end + 1;
    }
    rest = text.subarray(at);
    if (rest.length > lineBytesMax) throw new TidemarkError('BAD_INPUT', `${path}: expected lines of at most ${lineBytesMax} bytes, found a longer one: is it text?`);
    if (lines.length > 0) yield lines;
  }
  if (rest.length > 0) yield [rest.at(-1) === 13 ? rest.subarray(0, -1) : rest];
}

/** The columns that a first line names; null: it is no header. BAD_INPUT for a header without what a trade needs. */
const headerOf = (path: string, line: string): string[] | null => {
  const names = line.replace(/^\uFEFF/, '').split(',');
  const known = names.map(columnOf);
  if (known.every((name) => name === undefined)) return null;
  const missing = required.filter((name) => !known.includes(name));
  if (missing.length > 0) throw new TidemarkError('BAD_INPUT', `${path}: expected a header with ${required.join(', ')}, found ${names.join(', ')}`);
  return names;
};

const fieldsOf = (texts: readonly string[], header: readonly string[] | null): LineFields | string => {
  if (header === null ? texts.length < 6 || texts.length > 7 : texts.length !== header.length) {
    return `expected ${header === null ? '6 or 7' : header.length} fields, found ${texts.length}`;
  }
  const found: LineFields = { fields: {}, extra: {} };
  for (const [index, text] of texts.entries()) {
    const name = header === null ? columnsInOrder[index] : columnOf(header[index]!);
    if (name === undefined) found.extra[header![index]!.trim()] = text.trim();
    else found.fields[name] = text.trim();
  }
  return found;
};

const isUtf8 = (bytes: Uint8Array, text: string): boolean => Buffer.byteLength(text) === bytes.length;

async function* csvLines(path: string, content: AsyncIterable<Buffer>, place: Place, from: number): AsyncGenerator<HistoryLine[]> {
  let header: string[] | null = null;
  let line = 0;
  for await (const lines of linesOf(path, content)) {
    let batch: HistoryLine[] = [];
    for (const bytes of lines) {
      const number = line;
      line += 1;
      if (number === 0) {
        header = headerOf(path, bytes.toString('utf8'));
        if (header !== null) continue;
      }
      if (number < from) continue;
      const text = bytes.toString('utf8');
      const fields = isUtf8(bytes, text) ? fieldsOf(text.split(','), header) : 'expected UTF-8 text, found other bytes';
      const trade = typeof fields === 'string' ? fields : tradeOf(fields, place);
      batch.push(typeof trade === 'string' ? { line: number, problem: trade, bytes } : { line: number, trade });
      if (batch.length >= batchLines) {
        yield batch;
        batch = [];
      }
    }
    if (batch.length > 0) yield batch;
  }
}

// --- Parquet

/** A number as plain decimal text: no exponent. */
const plainNumber = (value: number): string => {
  const text = String(value);
  const match = /^(-?)(\d+)(?:\.(\d+))?e([+-]\d+)$/.exec(text);
  if (!match) return text;
  const [, sign = '', whole = '', fraction = '', exponent = '0'] = match;
  const digits = whole + fraction;
  const point = whole.length + Number(exponent);
  return point <= 0 ? `${sign}0.${'0'.repeat(-point)}${digits}` : point >= digits.length ? `${sign}${digits}${'0'.repeat(point - digits.length)}` : `${sign}${digits.slice(0, point)}.${digits.slice(point)}`;
};

const scaled = (value: bigint | number, scale: number): string => {
  const digits = String(value < 0 ? -value : value).padStart(scale + 1, '0');
  const sign = value < 0 ? '-' : '';
  return scale === 0 ? `${sign}${digits}` : `${sign}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
};

/** How a cell of a column reads as the CSV would have it. Empty: null. */
const cellText = (file: ParquetFile, name: string, values: ColumnValues): ((row: number) => string) => {
  const { element } = file.leaf(name);
  const isDecimal = element.converted_type === 'DECIMAL' || element.logical_type?.type === 'DECIMAL';
  const scale = isDecimal ? element.scale ?? 0 : 0;
  return (row) => {
    const value = values[row];
    if (value === null || value === undefined) return '';
    if (typeof value === 'bigint' || typeof value === 'number') return isDecimal ? scaled(value, scale) : typeof value === 'bigint' ? String(value) : plainNumber(value);
    if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8');
    return String(value);
  };
};

const fileSource = async (path: string, byteLength: number): Promise<ByteSource & { close(): Promise<void> }> => {
  const file = await open(path);
  return {
    byteLength,
    slice: async (start, end) => {
      const buffer = Buffer.alloc(end - start);
      const { bytesRead } = await file.read({ buffer, position: start });
      return buffer.subarray(0, bytesRead);
    },
    close: () => file.close(),
  };
};

async function* parquetLines(path: string, byteLength: number, place: Place, from: number): AsyncGenerator<HistoryLine[]> {
  const source = await fileSource(path, byteLength);
  try {
    const file = await openParquet(source);
    const names = file.columnNames.filter((name) => !file.leaf(name).isList);
    const missing = required.filter((name) => !names.some((one) => columnOf(one) === name));
    if (missing.length > 0) throw new TidemarkError('BAD_INPUT', `${path}: expected columns ${required.join(', ')}, found ${names.join(', ')}`);
    let first = 0;
    for (const [group, rows] of file.rowGroupRows.entries()) {
      const start = first;
      first += rows;
      if (first <= from) continue;
      const bytes = Number(file.metadata.row_groups[group]!.total_byte_size);
      if (bytes > rowGroupBytesMax) throw new TidemarkError('BAD_INPUT', `${path}: expected row groups of at most ${rowGroupBytesMax} bytes, found one of ${bytes}: write it with smaller ones`);
      const { columns } = await readColumns(file, { columns: names, rowGroups: [group] });
      const cells = names.map((name) => ({ name, column: columnOf(name), text: cellText(file, name, columns[name]!) }));
      let batch: HistoryLine[] = [];
      for (let row = Math.max(0, from - start); row < rows; row += 1) {
        const found: LineFields = { fields: {}, extra: {} };
        for (const { name, column, text } of cells) {
          const cell = text(row);
          if (column !== undefined) found.fields[column] = cell;
          else if (cell !== '') found.extra[name] = cell;
        }
        const trade = tradeOf(found, place);
        batch.push(typeof trade === 'string'
          ? { line: start + row, problem: trade, bytes: Buffer.from(JSON.stringify({ ...found.fields, ...found.extra })) }
          : { line: start + row, trade });
        if (batch.length >= batchLines) {
          yield batch;
          batch = [];
        }
      }
      if (batch.length > 0) yield batch;
    }
  } catch (error) {
    if (error instanceof TidemarkError && error.code === 'FILE_UNREADABLE') throw new TidemarkError('BAD_INPUT', `${path}: ${error.message}`, { cause: error });
    throw error;
  } finally {
    await source.close();
  }
}

// --- both

/** The file's lines from `from` on, in batches. BAD_INPUT for a file that cannot be read to its end. */
export const historyLines = (path: string, facts: { form: FileForm; byteLength: number }, place: Place, from = 0): AsyncGenerator<HistoryLine[]> =>
  (facts.form === 'parquet' ? parquetLines(path, facts.byteLength, place, from) : csvLines(path, contentOf(path, facts), place, from));

/** `content` with every piece shown to `look` on its way. */
async function* watched(content: AsyncIterable<Buffer>, look: (chunk: Buffer) => void): AsyncGenerator<Buffer> {
  for await (const chunk of content) {
    look(chunk);
    yield chunk;
  }
}

/**
 * Reads a file once, to know what it is before anything is imported of it: nothing is taken from a file that is damaged,
 * or is none of trades. BAD_INPUT then.
 */
export const inspectHistoryFile = async (path: string, place: Place, onProgress: (lines: number) => void = () => {}): Promise<HistoryFile> => {
  const facts = await formOfFile(path);
  const content = createHash('sha256').update(`${place.market}:${place.symbol}\n`);
  const found: HistoryFile = { path, ...facts, ...place, checksum: '', lines: 0, trades: 0, bad: 0, problems: [], firstTimeMs: null, lastTimeMs: null };
  let lineEnds = 0;
  let lastByte = 10;
  const watch = (chunk: Buffer): void => {
    content.update(chunk);
    for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, at + 1)) lineEnds += 1;
    lastByte = chunk.at(-1) ?? lastByte;
  };
  const batches = facts.form === 'parquet' ? historyLines(path, facts, place) : csvLines(path, watched(contentOf(path, facts), watch), place, 0);
  for await (const batch of batches) {
    for (const one of batch) {
      if (one.trade) {
        found.trades += 1;
        const { trade_time_ms: time } = one.trade;
        if (found.firstTimeMs === null || time < found.firstTimeMs) found.firstTimeMs = time;
        if (found.lastTimeMs === null || time > found.lastTimeMs) found.lastTimeMs = time;
      } else {
        found.bad += 1;
        if (found.problems.length < problemsShown) found.problems.push({ line: one.line, problem: one.problem });
      }
    }
    if (found.trades === 0 && found.bad >= probedLines) break;
    onProgress(found.trades + found.bad);
  }
  if (found.trades === 0) {
    const [first] = found.problems;
    throw new TidemarkError('BAD_INPUT', `${path}: expected trades (${columnsInOrder.join(', ')}), found none${first ? `; line ${first.line + 1}: ${first.problem}` : ''}`);
  }
  if (facts.form === 'parquet') {
    for await (const chunk of contentOf(path, { ...facts, form: 'plain' })) content.update(chunk);
    found.lines = found.trades + found.bad;
  } else {
    found.lines = lineEnds + (lastByte === 10 ? 0 : 1);
  }
  return { ...found, checksum: content.digest('hex') };
};
