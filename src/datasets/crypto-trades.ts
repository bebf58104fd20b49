import { z } from 'zod';
import type { ColumnValues } from '../lake/columns.ts';
import type { Field } from '../lake/schema.ts';
import { asciiBytes } from './ascii.ts';
import type { AvroRecordSchema, CodedWriter, ColumnWriters, GoldColumn, Int64, Int64Writer, TextWriter } from './dataset.ts';
import type { EncodedRecord } from '../schema-registry/encoded-record.ts';

// What the trade datasets share: the fifteen TradeV2 columns, Gold, and the rules. A change here changes the rule
// version of each of them.

/** One row of `TradeV2`. Prices and quantities are unscaled at {@link decimalScale}; timestamps µs since the epoch. */
export type TradeV2 = {
  readonly message_id: string;
  readonly trade_id: string;
  readonly symbol: string;
  readonly exchange: string;
  readonly asset_class: 'equities' | 'crypto' | 'futures' | 'options';
  readonly timestamp: number;
  readonly price: Int64 | null;
  readonly quantity: Int64 | null;
  readonly currency: string;
  readonly side: string;
  readonly trade_conditions: readonly string[];
  readonly source_sequence: Int64 | null;
  readonly ingestion_timestamp: number;
  readonly platform_sequence: Int64 | null;
  readonly vendor_data: string;
};

export const decimalPrecision = 18;
export const decimalScale = 8;

export const tradeFields: readonly Field[] = [
  { id: 1, name: 'message_id', type: 'string', required: true, doc: 'UUIDv5 of topic, partition, offset' },
  { id: 2, name: 'trade_id', type: 'string', required: true },
  { id: 3, name: 'symbol', type: 'string', required: true },
  { id: 4, name: 'exchange', type: 'string', required: true, doc: 'The venue: one exchange has several, with unrelated ids' },
  { id: 5, name: 'asset_class', type: 'string', required: true, doc: 'equities, crypto, futures or options' },
  { id: 6, name: 'timestamp', type: 'timestamptz', required: true, doc: 'When the trade happened' },
  { id: 7, name: 'price', type: `decimal(${decimalPrecision},${decimalScale})`, required: true },
  { id: 8, name: 'quantity', type: `decimal(${decimalPrecision},${decimalScale})`, required: true },
  { id: 9, name: 'currency', type: 'string', required: true, doc: 'Of the price; UNKNOWN where the symbol does not tell' },
  { id: 10, name: 'side', type: 'string', required: true, doc: 'Of the taker: BUY, SELL, SELL_SHORT or UNKNOWN' },
  { id: 11, name: 'trade_conditions', type: { type: 'list', elementId: 16, element: 'string', elementRequired: true }, required: true },
  { id: 12, name: 'source_sequence', type: 'long', required: false },
  { id: 13, name: 'ingestion_timestamp', type: 'timestamptz', required: true, doc: 'When capture received it' },
  { id: 14, name: 'platform_sequence', type: 'long', required: false },
  { id: 15, name: 'vendor_data', type: 'string', required: true, doc: 'JSON of what the other columns do not hold, keys sorted' },
];

const dayMicros = 86_400_000_000;
const hourMicros = 3_600_000_000;
/** Event times as numbers, from their 32-bit halves: validated ones are safe integers, and a bigint for each would be garbage. */
const derived = (columns: Readonly<Record<string, ColumnValues>>, rowCount: number, of: (micros: number) => number): Int32Array => {
  const timestamps = columns['timestamp'] as BigInt64Array;
  const halves = new Int32Array(timestamps.buffer, timestamps.byteOffset, timestamps.length * 2);
  const values = new Int32Array(rowCount);
  for (let i = 0; i < rowCount; i += 1) values[i] = of(halves[2 * i + 1]! * 4_294_967_296 + (halves[2 * i]! >>> 0));
  return values;
};

export const tradeGoldColumns: readonly GoldColumn[] = [
  {
    field: { id: 202, name: 'exchange_date', type: 'date', required: true, doc: 'UTC day of timestamp' },
    from: ['timestamp'],
    derive: (columns, rowCount) => derived(columns, rowCount, (micros) => Math.floor(micros / dayMicros)),
  },
  {
    field: { id: 203, name: 'exchange_hour', type: 'int', required: true, doc: 'UTC hour of timestamp, 0 to 23' },
    from: ['timestamp'],
    derive: (columns, rowCount) => derived(columns, rowCount, (micros) => Math.floor(micros / hourMicros) - Math.floor(micros / dayMicros) * 24),
  },
];

/** Error type → reasons, in the order in which they decide. */
export const tradeReasons = {
  price_validation: ['price_is_null', 'price_not_representable', 'price_must_be_positive'],
  quantity_validation: ['quantity_is_null', 'quantity_not_representable', 'quantity_must_be_positive'],
  timestamp_validation: ['timestamp_not_representable', 'timestamp_in_future', 'timestamp_too_old'],
  symbol_validation: ['symbol_required'],
  side_validation: ['invalid_side'],
} as const;

/** A trade may be this far ahead of the receive time: the clocks of 2024's captures run 1.5 s apart. */
export const clockSkewMaxMicros = 5_000_000;
export const tradeAgeMaxMicros = 365 * 86_400_000_000;

const sides: ReadonlySet<string> = new Set(['BUY', 'SELL', 'SELL_SHORT', 'UNKNOWN']);

/** Whole-value rules keep good rows free of allocations: a rule pushes an issue only when it fails. */
const amountRule = (column: 'price' | 'quantity') => z.any().check((payload) => {
  const value = payload.value as Int64 | null;
  let reason: string;
  if (value === null) reason = `${column}_is_null`;
  else if (value > 0) return;
  else reason = Number.isNaN(value) ? `${column}_not_representable` : `${column}_must_be_positive`;
  payload.issues.push({ code: 'custom', message: reason, input: value, continue: true });
});

export const tradeRules = z.object({
  price: amountRule('price'),
  quantity: amountRule('quantity'),
  timestamp: z.any(),
  // "Now" is the record's own receive time, never the wall clock: a backfill next year must accept what today accepts.
  ingestion_timestamp: z.any(),
  symbol: z.any().check((payload) => {
    if (payload.value !== '') return;
    payload.issues.push({ code: 'custom', message: 'symbol_required', input: payload.value, continue: true });
  }),
  side: z.any().check((payload) => {
    if (sides.has(payload.value as string)) return;
    payload.issues.push({ code: 'custom', message: 'invalid_side', input: payload.value, continue: true });
  }),
}).check((payload) => {
  const { timestamp, ingestion_timestamp: now } = payload.value as Pick<TradeV2, 'timestamp' | 'ingestion_timestamp'>;
  const age = now - timestamp;
  let reason: string;
  if (!(Number.isSafeInteger(timestamp) && Number.isSafeInteger(now))) reason = 'timestamp_not_representable';
  else if (age < -clockSkewMaxMicros) reason = 'timestamp_in_future';
  else if (age > tradeAgeMaxMicros) reason = 'timestamp_too_old';
  else return;
  payload.issues.push({ code: 'custom', message: reason, input: timestamp, path: ['timestamp'], continue: true });
});

/** Whether a trade that was read from its bytes passes every rule above; `side` and `symbol` are the mapping's. */
export const isPlainlyValid = (price: number, quantity: number, timestamp: number, now: number): boolean => {
  const age = now - timestamp;
  // NaN fails each comparison.
  return price > 0 && quantity > 0 && age >= -clockSkewMaxMicros && age <= tradeAgeMaxMicros && timestamp <= Number.MAX_SAFE_INTEGER && now <= Number.MAX_SAFE_INTEGER;
};

/** The columns of {@link tradeFields} that a mapping from bytes writes; the message id is the engine's. */
export interface TradeWriters extends Readonly<
  & Record<'trade_id' | 'vendor_data', TextWriter>
  & Record<'symbol' | 'exchange' | 'asset_class' | 'currency' | 'side' | 'trade_conditions', CodedWriter>
  & Record<'timestamp' | 'price' | 'quantity' | 'source_sequence' | 'ingestion_timestamp' | 'platform_sequence', Int64Writer>
> {}

export const tradeWriters = ({ text, coded, int64 }: ColumnWriters): TradeWriters => ({
  trade_id: text('trade_id'), vendor_data: text('vendor_data'),
  symbol: coded('symbol'), exchange: coded('exchange'), asset_class: coded('asset_class'), currency: coded('currency'), side: coded('side'), trade_conditions: coded('trade_conditions'),
  timestamp: int64('timestamp'), price: int64('price'), quantity: int64('quantity'), source_sequence: int64('source_sequence'),
  ingestion_timestamp: int64('ingestion_timestamp'), platform_sequence: int64('platform_sequence'),
});

/** Numbers of a schema's fields by name, as {@link EncodedRecord} takes them. */
export const fieldNumbers = <Name extends string>(schema: AvroRecordSchema, names: readonly Name[]): Readonly<Record<Name, number>> =>
  Object.fromEntries(names.map((name) => [name, schema.fields.findIndex((field) => field.name === name)])) as Record<Name, number>;

/** Parts of a JSON text. */
export const json = { quote: asciiBytes('"'), colon: asciiBytes('":"'), next: asciiBytes(',"'), null: asciiBytes('null'), true: asciiBytes('true'), false: asciiBytes('false'), open: asciiBytes('{'), close: asciiBytes('}') };

/** The first `count` entries of the record as a JSON object. False for bytes that JSON would write otherwise. */
export const jsonEntries = (out: TextWriter, record: EncodedRecord, count: number): boolean => {
  const { bytes, keyStarts, keyEnds, valueStarts, valueEnds } = record;
  out.literal(json.open);
  for (let i = 0; i < count; i += 1) {
    out.literal(i === 0 ? json.quote : json.next);
    if (!out.jsonText(bytes, keyStarts[i]!, keyEnds[i]!)) return false;
    out.literal(json.colon);
    if (!out.jsonText(bytes, valueStarts[i]!, valueEnds[i]!)) return false;
    out.literal(json.quote);
  }
  out.literal(json.close);
  return true;
};

/** Text in quotes, or `null`. */
export const jsonNullableText = (out: TextWriter, record: EncodedRecord, field: number): boolean => {
  if (record.isNull(field)) {
    out.literal(json.null);
    return true;
  }
  out.literal(json.quote);
  if (!out.jsonText(record.bytes, record.textStartOf(field), record.textEnd(field))) return false;
  out.literal(json.quote);
  return true;
};

/** The number of the entry whose key is the one character `key`, of the first `count`; −1 if there is none. */
export const entryOf = ({ bytes, keyStarts, keyEnds }: EncodedRecord, count: number, key: number): number => {
  for (let i = 0; i < count; i += 1) if ((keyEnds[i]! - keyStarts[i]!) === 1 && bytes[keyStarts[i]!] === key) return i;
  return -1;
};

/** Longest first, so that `USDT` wins over a shorter suffix of the same symbol. */
const quoteCurrencies = [
  'FDUSD', 'USDT', 'USDC', 'BUSD', 'TUSD', 'USDP', 'USDS', 'USDE', 'BIDR', 'IDRT', 'BVND', 'BKRW', 'EURI', 'DOGE',
  'USD', 'BTC', 'ETH', 'BNB', 'EUR', 'GBP', 'TRY', 'BRL', 'JPY', 'AUD', 'CAD', 'CHF', 'RUB', 'UAH', 'NGN', 'ZAR', 'PLN', 'RON', 'ARS', 'MXN', 'COP', 'CZK', 'IDR', 'VAI',
  'DAI', 'PAX', 'XRP', 'TRX', 'DOT', 'SOL', 'UST', 'AED',
].sort((a, b) => b.length - a.length);
const deliverySuffix = /_(?:PERP|\d{6})$/;

/** Symbols are few and records are many; the bound only guards against rubbish that names a new symbol each time. */
const rememberedMax = 10_000;
export const remembered = <Value>(derive: (text: string) => Value): ((text: string) => Value) => {
  const known = new Map<string, Value>();
  return (text) => {
    let value = known.get(text);
    if (value === undefined) {
      value = derive(text);
      if (known.size >= rememberedMax) known.clear();
      known.set(text, value);
    }
    return value;
  };
};

/** The quote currency of a symbol without a separator, by its suffix: `ETHBTC` is BTC, `BTCUSD_210625` is USD. */
export const currencyBySuffix = remembered((symbol: string): string => {
  const pair = symbol.replace(deliverySuffix, '');
  return quoteCurrencies.find((quote) => pair.length > quote.length && pair.endsWith(quote)) ?? 'UNKNOWN';
});

/** The map with its keys in ascending order, so that equal maps give equal JSON. Maps are small: keys are put in order by insertion. */
export const sortedByKey = (texts: Readonly<Record<string, string>>): Readonly<Record<string, string>> => {
  const keys = Object.keys(texts);
  let moved = false;
  for (let i = 1; i < keys.length; i += 1) {
    const key = keys[i]!;
    let at = i;
    for (; at > 0 && keys[at - 1]! > key; at -= 1) keys[at] = keys[at - 1]!;
    keys[at] = key;
    moved ||= at < i;
  }
  if (!moved) return texts;
  const sorted: Record<string, string> = {};
  for (const key of keys) sorted[key] = texts[key]!;
  return sorted;
};

/** Shared, as most trades have the same ones: a list for each row would only fill memory. */
export const noConditions: readonly string[] = [];
export const conditionOf = remembered((text: string): readonly string[] => [text.toLowerCase()]);
