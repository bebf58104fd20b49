import { expect, test } from 'vitest';
import { rawSchema } from '../../src/datasets/binance-trades.ts';
import { backwardProblems } from '../../src/schema-registry/compatibility.ts';

const withFields = (change: (fields: Record<string, unknown>[]) => unknown[]) => ({ ...rawSchema, fields: change(rawSchema.fields.map((field) => ({ ...field }))) });

test('a schema reads its own records, those without a field that has a default, and those with a field that it has not', () => {
  expect(backwardProblems(rawSchema, rawSchema)).toEqual([]);
  expect(backwardProblems(rawSchema, withFields((fields) => fields.filter(({ name }) => name !== 'extra')))).toEqual([]);
  expect(backwardProblems(rawSchema, withFields((fields) => [...fields, { name: 'later', type: 'string' }]))).toEqual([]);
  expect(backwardProblems(withFields((fields) => fields.map((field) => (field['name'] === 'trade_id' ? { ...field, type: 'double' } : field))), rawSchema)).toEqual([]);
});

test.each([
  ['a field without a default', withFields((fields) => [...fields, { name: 'later', type: 'string' }]), 'field later: expected a default'],
  ['a narrower type', withFields((fields) => fields.map((field) => (field['name'] === 'trade_id' ? { ...field, type: 'int' } : field))), 'field trade_id: expected a type that reads "long", found "int"'],
  ['a union without a branch', withFields((fields) => fields.map((field) => (field['name'] === 'native_id' ? { name: 'native_id', type: 'string' } : field))), 'field native_id: expected a type that reads ["null","string"]'],
  ['another record', { ...rawSchema, name: 'Quote' }, 'expected a record named BinanceRawTrade, found Quote'],
])('%s is named as the reason why old records cannot be read', (_, schema, problem) => {
  const problems = backwardProblems(schema, rawSchema);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toContain(problem);
});

test('a field deep in a record is named by its path', () => {
  const nested = (type: string) => ({ type: 'record', name: 'A', fields: [{ name: 'b', type: { type: 'record', name: 'B', fields: [{ name: 'c', type }] } }] });
  expect(backwardProblems(nested('string'), nested('long'))).toMatchObject([expect.stringContaining('field b.c: ')]);
});
