import { FrameError } from './frame.ts';
import type { JsonText, JsonTextObject } from './json-text.ts';
import { NumberText } from './json-text.ts';

const integer = /^-?\d+$/;
const int64Max = 2n ** 63n - 1n;

/** A field that is text, or a number whose text counts. */
export const textField = (object: JsonTextObject, field: string): string => {
  const value = object[field];
  if (typeof value === 'string') return value;
  if (value instanceof NumberText) return value.text;
  throw new FrameError(`trade frame: expected text or a number as ${field}, found ${value === undefined ? 'nothing' : describe(value)}`);
};

/** A whole number: exact, a number while that is safe, a bigint up to 2^63. */
export const integerOf = (object: JsonTextObject, field: string): number | bigint => {
  const text = textField(object, field);
  if (!integer.test(text)) throw new FrameError(`trade frame: expected a whole number as ${field}, found ${JSON.stringify(text)}`);
  const value = Number(text);
  if (Number.isSafeInteger(value)) return value;
  const exact = BigInt(text);
  if (exact > int64Max || exact < -int64Max) throw new FrameError(`trade frame: expected a 64-bit number as ${field}, found ${text}`);
  return exact;
};

/** A time: whole, and within what a double holds exactly. */
export const millisOf = (object: JsonTextObject, field: string): number => {
  const value = integerOf(object, field);
  if (typeof value === 'bigint') throw new FrameError(`trade frame: expected milliseconds as ${field}, found ${value}`);
  return value;
};

const describe = (value: JsonText): string => (value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`);
