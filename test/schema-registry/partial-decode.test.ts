import { expect, test } from 'vitest';
import { rawSchema } from '../../src/datasets/binance-trades.ts';
import { decodePartly } from '../../src/schema-registry/partial-decode.ts';
import { avroTypeOf, binanceRaw } from '../support/raw-records.ts';

const schema = JSON.stringify(rawSchema);
const record = binanceRaw();
const body = avroTypeOf(rawSchema).toBuffer(record);

test('a whole record decodes to all of its fields', () => {
  expect(decodePartly(schema, body, 0)).toEqual({ fields: record, stoppedAt: null, stoppedIn: null, trailingBytes: 0 });
  expect(decodePartly(schema, Buffer.concat([Buffer.alloc(5), body, Buffer.alloc(3)]), 5)).toMatchObject({ fields: record, stoppedAt: null, trailingBytes: 3 });
});

test('a record that is cut anywhere gives the fields in front of the cut, and the field and the byte where it ends', () => {
  const names = rawSchema.fields.map(({ name }) => name);
  let fieldsMost = 0;
  for (let length = 0; length < body.length; length += 1) {
    const { fields, stoppedAt, stoppedIn } = decodePartly(schema, body.subarray(0, length), 0);
    const decoded = Object.keys(fields);
    expect(decoded).toEqual(names.slice(0, decoded.length));
    expect(fields).toEqual(Object.fromEntries(decoded.map((name) => [name, record[name as keyof typeof record]])));
    expect(stoppedIn).toBe(names[decoded.length]);
    expect(stoppedAt).toBeLessThanOrEqual(length);
    expect(decoded.length).toBeGreaterThanOrEqual(fieldsMost);
    fieldsMost = decoded.length;
  }
});
