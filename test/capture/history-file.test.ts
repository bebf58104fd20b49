import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, deflateRawSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { formOfFile } from '../../src/capture/file-content.ts';
import { historyLines, inspectHistoryFile, symbolOfFileName } from '../../src/capture/history-file.ts';
import type { HistoryLine } from '../../src/capture/history-file.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field } from '../../src/lake/schema.ts';

const place = { market: 'spot', symbol: 'BTCUSDT' };
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidemark-history-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let files = 0;
const fileOf = async (bytes: string | Uint8Array): Promise<string> => {
  files += 1;
  const path = join(folder, `BTCUSDT-trades-${files}.csv`);
  await writeFile(path, bytes);
  return path;
};
const linesOf = async (path: string, from = 0): Promise<HistoryLine[]> => {
  const found: HistoryLine[] = [];
  for await (const batch of historyLines(path, await formOfFile(path), place, from)) found.push(...batch);
  return found;
};
/** A ZIP as Binance's are: one deflated entry. */
const zipOf = (name: string, content: Buffer, crc = crc32(content)): Buffer => {
  const data = deflateRawSync(content);
  const head = (signature: number, isDirectory: boolean): Buffer => {
    const bytes = Buffer.alloc((isDirectory ? 46 : 30) + name.length);
    bytes.writeUInt32LE(signature, 0);
    const at = isDirectory ? 2 : 0;
    bytes.writeUInt16LE(8, 8 + at);
    bytes.writeUInt32LE(crc, 14 + at);
    bytes.writeUInt32LE(data.length, 18 + at);
    bytes.writeUInt32LE(content.length, 22 + at);
    bytes.writeUInt16LE(name.length, 26 + at);
    bytes.write(name, isDirectory ? 46 : 30);
    return bytes;
  };
  const local = head(0x04034b50, false);
  const directory = head(0x02014b50, true);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(local.length + data.length, 16);
  return Buffer.concat([local, data, directory, end]);
};

const csv = '1,4261.48000000,0.10000000,426.14800000,1502942428322,True,True\n2,4261.49,0.2,852.298,1502942428323,False,False\n';
const first = {
  event_type: 'trade', event_time_ms: 1_502_942_428_322, symbol: 'BTCUSDT', trade_id: 1, price: '4261.48000000', quantity: '0.10000000', trade_time_ms: 1_502_942_428_322,
  is_buyer_maker: true, is_best_match: true, ingestion_timestamp: 1_502_942_428_322_000, market: 'spot', native_id: null, extra: { quote_qty: '426.14800000' },
};

test('a line becomes the trade that capture would have made of it; its ingestion time is its event time', async () => {
  const [one, two] = await linesOf(await fileOf(csv));
  expect(one).toEqual({ line: 0, trade: first });
  expect(two!.trade).toMatchObject({ trade_id: 2, price: '4261.49', is_buyer_maker: false, is_best_match: false });
});

test('a header may be there or not, in any order and under the usual names; futures have no is_best_match, and columns of their own are kept', async () => {
  const lines = await linesOf(await fileOf('time,id,price,qty,quoteQty,isBuyerMaker,fee\r\n1502942428322,1,4261.48000000,0.10000000,426.14800000,true,0.01\r\n'));
  expect(lines).toEqual([{ line: 1, trade: { ...first, is_best_match: null, extra: { quote_qty: '426.14800000', fee: '0.01' } } }]);
  await expect(inspectHistoryFile(await fileOf('agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n1,2,3,4,5,6,true\n'), place))
    .rejects.toThrow('expected a header with id, price, qty, time, is_buyer_maker');
});

test('microseconds are told from milliseconds, and nothing of them is lost', async () => {
  const [line] = await linesOf(await fileOf('1,2,3,6,1735689600123456,false,true\n'));
  expect(line!.trade).toMatchObject({ trade_time_ms: 1_735_689_600_123, event_time_ms: 1_735_689_600_123, ingestion_timestamp: 1_735_689_600_123_456, extra: { quote_qty: '6', time: '1735689600123456' } });
});

test('ids past 2^53 stay exact', async () => {
  const [line] = await linesOf(await fileOf('9007199254740993,2,3,6,1735689600123,false,true\n'));
  expect(line!.trade!.trade_id).toBe(9_007_199_254_740_993n);
});

test('a line that is no trade is given with its number, its bytes and what is wrong with it; its neighbours are not touched', async () => {
  const bad: [text: string, problem: string][] = [
    ['', 'expected 6 or 7 fields, found 1'],
    ['3,1,2', 'expected 6 or 7 fields, found 3'],
    ['x,1,2,2,1502942428322,True,True', 'expected a 64-bit number as id, found "x"'],
    ['99999999999999999999,1,2,2,1502942428322,True,True', 'expected a 64-bit number as id, found "99999999999999999999"'],
    ['3,,2,2,1502942428322,True,True', 'expected price, found nothing'],
    ['3,1,2,2,1502942428,True,True', 'expected milliseconds or microseconds as time, found "1502942428"'],
    ['3,1,2,2,1502942428322,maybe,True', 'expected true or false as is_buyer_maker, found "maybe"'],
    ['3,1,2,2,1502942428322,True,perhaps', 'expected true or false as is_best_match, found "perhaps"'],
  ];
  const path = await fileOf(Buffer.concat([Buffer.from(`${csv}${bad.map(([text]) => `${text}\n`).join('')}`), Buffer.from([0x33, 0x2c, 0xff, 0xfe, 10]), Buffer.from(csv)]));
  const lines = await linesOf(path);
  expect(lines.map(({ line }) => line)).toEqual(Array.from({ length: bad.length + 5 }, (_, line) => line));
  expect(lines.slice(2, 2 + bad.length)).toEqual(bad.map(([text, problem], i) => ({ line: 2 + i, problem, bytes: Buffer.from(text) })));
  expect(lines[2 + bad.length]).toEqual({ line: 2 + bad.length, problem: 'expected UTF-8 text, found other bytes', bytes: Buffer.from([0x33, 0x2c, 0xff, 0xfe]) });
  expect(lines.filter(({ trade }) => trade).map(({ line }) => line)).toEqual([0, 1, bad.length + 3, bad.length + 4]);
  expect(await inspectHistoryFile(path, place)).toMatchObject({ lines: bad.length + 5, trades: 4, bad: bad.length + 1, problems: { length: 5 } });
});

test('plain, gzip and ZIP are one import; another symbol, market or content is another', async () => {
  const checksumOf = async (bytes: string | Uint8Array, more = {}): Promise<string> => (await inspectHistoryFile(await fileOf(bytes), { ...place, ...more })).checksum;
  const plain = await checksumOf(csv);
  expect(await checksumOf(gzipSync(csv))).toBe(plain);
  expect(await checksumOf(zipOf('BTCUSDT-trades-2017-08-17.csv', Buffer.from(csv)))).toBe(plain);
  expect(new Set([plain, await checksumOf(csv, { symbol: 'ETHUSDT' }), await checksumOf(csv, { market: 'usdm' }), await checksumOf(`${csv}${csv}`)]).size).toBe(4);
});

test('a file that is damaged, cut short, or none of trades is refused before anything is taken of it', async () => {
  const many = Array.from({ length: 20_000 }, (_, i) => `${i},4261.48,0.1,426.1,1502942428322,True,True\n`).join('');
  const refused = async (bytes: string | Uint8Array): Promise<string> => inspectHistoryFile(await fileOf(bytes), place).then(() => 'taken', (error: Error) => error.message);
  expect(await refused(gzipSync(many).subarray(0, 20_000))).toContain('cannot be read to its end');
  const zip = zipOf('a.csv', Buffer.from(many));
  expect(await refused(zip.subarray(0, zip.length - 30))).toContain('expected a ZIP file with one entry');
  expect(await refused(zipOf('a.csv', Buffer.from(many), 7))).toContain('expected content with CRC 7');
  expect(await refused(Buffer.alloc(200_000, 65))).toContain('expected lines of at most 65536 bytes');
  expect(await refused('')).toContain('expected trades');
  expect(await refused('id,price,qty,quote_qty,time,is_buyer_maker\n')).toContain('expected trades');
  expect(await refused('hello\nworld\n')).toContain('found none; line 1: expected 6 or 7 fields, found 1');
  expect(await refused('PAR1 but not really, there is no footer here')).toContain('expected a Parquet footer');
  await expect(formOfFile(join(folder, 'nowhere.csv'))).rejects.toThrow('expected a file that can be read');
});

test('whatever the pieces it is read in, a file gives the same lines, from any line on', async () => {
  const text = fc.stringMatching(/^[0-9a-z,."]{0,30}$/);
  await fc.assert(fc.asyncProperty(fc.array(text, { maxLength: 40 }), fc.constantFrom('\n', '\r\n'), fc.boolean(), fc.nat(40), async (texts, end, isClosed, from) => {
    const content = `${csv}${texts.join(end)}${isClosed && texts.length > 0 ? end : ''}`;
    const path = await fileOf(content);
    const all = await linesOf(path);
    expect(await linesOf(path, from)).toEqual(all.filter(({ line }) => line >= from));
    expect((await inspectHistoryFile(path, place)).lines).toBe(all.length);
  }), { numRuns: 60 });
});

const field = (id: number, name: string, type: Field['type'], required = true): Field => ({ id, name, type, required });

test.each([
  ['texts', 'string', ['0.00000001', '4261.48']],
  ['doubles', 'double', ['0.00000001', '4261.48']],
  ['decimals', 'decimal(18,8)', ['0.00000001', '4261.48000000']],
] as const)('Parquet with prices as %s gives the trades that the CSV gives', async (_, type, prices) => {
  const fields = [field(1, 'id', 'long'), field(2, 'price', type), field(3, 'qty', type), field(4, 'quote_qty', type), field(5, 'time', 'long'), field(6, 'is_buyer_maker', 'boolean'), field(7, 'is_best_match', 'boolean', false)];
  const column = type === 'string' ? [...prices] : type === 'double' ? Float64Array.from(prices, Number) : BigInt64Array.from(prices, (text) => BigInt(text.replace('.', '')));
  const { bytes } = encodeDataFile({ fields, batch: { rowCount: 2, columns: {
    id: BigInt64Array.of(1n, 2n), price: column, qty: column, quote_qty: column, time: BigInt64Array.of(1_502_942_428_322n, 1_735_689_600_123_456n), is_buyer_maker: [true, false], is_best_match: [null, true],
  } } });
  const path = await fileOf(bytes);
  const lines = await linesOf(path);
  expect(lines.map(({ trade }) => trade)).toEqual(prices.map((price, i) => ({
    ...first, trade_id: i + 1, price, quantity: price, is_buyer_maker: i === 0, is_best_match: i === 0 ? null : true,
    ...(i === 0 ? { extra: { quote_qty: price } } : { event_time_ms: 1_735_689_600_123, trade_time_ms: 1_735_689_600_123, ingestion_timestamp: 1_735_689_600_123_456, extra: { quote_qty: price, time: '1735689600123456' } }),
  })));
  expect(await inspectHistoryFile(path, place)).toMatchObject({ form: 'parquet', lines: 2, trades: 2, bad: 0 });
  expect((await linesOf(path, 1)).map(({ line }) => line)).toEqual([1]);
});

test('a Parquet row without what a trade needs is given as JSON with what is wrong with it; a file without the columns is refused', async () => {
  const fields = [field(1, 'id', 'long', false), field(2, 'price', 'string'), field(3, 'qty', 'string'), field(5, 'time', 'timestamptz'), field(6, 'is_buyer_maker', 'boolean')];
  const { bytes } = encodeDataFile({ fields, batch: { rowCount: 2, columns: { id: [null, 7n], price: ['1', '2'], qty: ['1', '2'], time: BigInt64Array.of(1_502_942_428_322_000n, 1_502_942_428_322_001n), is_buyer_maker: [true, true] } } });
  const lines = await linesOf(await fileOf(bytes));
  expect(lines[0]).toEqual({ line: 0, problem: 'expected id, found nothing', bytes: Buffer.from('{"id":"","price":"1","qty":"1","time":"1502942428322000","is_buyer_maker":"true"}') });
  expect(lines[1]!.trade).toMatchObject({ trade_id: 7, ingestion_timestamp: 1_502_942_428_322_001 });
  const { bytes: other } = encodeDataFile({ fields: [field(1, 'id', 'long')], batch: { rowCount: 1, columns: { id: BigInt64Array.of(1n) } } });
  await expect(inspectHistoryFile(await fileOf(other), place)).rejects.toThrow('expected columns id, price, qty, time, is_buyer_maker, found id');
});

test('the symbol is in the names that Binance gives its files', () => {
  expect(symbolOfFileName('/data/BTCUSDT-trades-2023-10-01.csv.gz')).toBe('BTCUSDT');
  expect(symbolOfFileName('BTCUSD_PERP-trades-2023-10.zip')).toBe('BTCUSD_PERP');
  expect(symbolOfFileName('trades.csv')).toBe(undefined);
});
