import type { Int64 } from './dataset.ts';

/** Digits that a `number` takes without rounding. */
const safeDigits = 15;

/**
 * The unscaled value of a decimal text at the given scale, exact, never through a double: `28165.47` at scale 8 is
 * 2816547000000. Takes an exponent. Null for an empty text; NaN for what is no decimal, has digits past the scale that
 * are not zero, or more digits than the precision allows.
 */
export const unscaledOf = (text: string | null, precision: number, scale: number): Int64 | null => {
  if (text === null || text === '') return null;
  let value = 0;
  let digits = 0;
  let point = -1;
  let i = text.charCodeAt(0) === 45 ? 1 : 0;
  const negative = i === 1;
  for (; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    if (code >= 48 && code <= 57) {
      value = value * 10 + (code - 48);
      digits += 1;
    } else if (code === 46 && point < 0) {
      point = digits;
    } else {
      return unscaledSlowly(text, precision, scale);
    }
  }
  const fraction = point < 0 ? 0 : digits - point;
  const missing = scale - fraction;
  if (digits === 0 || point === 0 || fraction === 0 && point >= 0 || missing < 0 || digits + missing > safeDigits) return unscaledSlowly(text, precision, scale);
  for (let k = 0; k < missing; k += 1) value *= 10;
  // Minus zero is zero.
  return negative && value !== 0 ? -value : value;
};

const decimalText = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?$/;

const unscaledSlowly = (text: string, precision: number, scale: number): Int64 => {
  const match = decimalText.exec(text);
  if (!match) return NaN;
  const [, sign, whole = '', fraction = '', exponent = '0'] = match;
  if (whole === '' && fraction === '') return NaN;
  const digits = (whole + fraction).replace(/^0+/, '');
  if (digits === '') return 0;
  // The value is digits × 10^-places.
  const shift = scale - (fraction.length - Number(exponent));
  let unscaled: string;
  if (shift >= 0) {
    if (digits.length + shift > precision) return NaN;
    unscaled = digits + '0'.repeat(shift);
  } else {
    const kept = digits.slice(0, shift);
    if (/[^0]/.test(digits.slice(shift)) || kept.length > precision) return NaN;
    unscaled = kept === '' ? '0' : kept;
  }
  const value = BigInt(unscaled) * (sign === '-' ? -1n : 1n);
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
};

/** µs since the epoch of a text in seconds, digit by digit, never through a double. Digits past the µs are cut off (floor). NaN for what is no such text. */
export const microsOfSeconds = (text: string): number => {
  const point = text.indexOf('.');
  const secondsEnd = point < 0 ? text.length : point;
  if (secondsEnd === 0 || secondsEnd > 10 || point === text.length - 1 || text.length > 32) return NaN;
  let seconds = 0;
  for (let i = 0; i < secondsEnd; i += 1) {
    const code = text.charCodeAt(i);
    if (code < 48 || code > 57) return NaN;
    seconds = seconds * 10 + (code - 48);
  }
  let micros = 0;
  let places = 0;
  for (let i = secondsEnd + 1; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    if (code < 48 || code > 57) return NaN;
    if (places < 6) {
      micros = micros * 10 + (code - 48);
      places += 1;
    }
  }
  for (; places < 6; places += 1) micros *= 10;
  // At most ten digits of seconds: below 2^53 µs for 285 years past the epoch's 9,007,199,254 s, checked by the last line.
  const total = seconds * 1_000_000 + micros;
  return Number.isSafeInteger(total) ? total : NaN;
};

/** As {@link unscaledOf}, of the bytes of a plain text like `28165.47`: NaN for every other, which is for {@link unscaledOf} to read. */
export const unscaledOfAscii = (bytes: Uint8Array, start: number, end: number, scale: number): number => {
  let value = 0;
  let point = -1;
  for (let i = start; i < end; i += 1) {
    const code = bytes[i]!;
    if (code >= 48 && code <= 57) value = value * 10 + (code - 48);
    else if (code === 46 && point < 0) point = i;
    else return NaN;
  }
  const digits = end - start - (point < 0 ? 0 : 1);
  const missing = scale - (point < 0 ? 0 : end - point - 1);
  if (point === start || point === end - 1 || digits < 1 || missing < 0 || digits + missing > safeDigits) return NaN;
  return value * powersOfTen[missing]!;
};

const powersOfTen = Array.from({ length: safeDigits + 1 }, (_, power) => 10 ** power);

/** As {@link microsOfSeconds}, of the bytes of a text: NaN where that gives NaN. */
export const microsOfAscii = (bytes: Uint8Array, start: number, end: number): number => {
  let seconds = 0;
  let i = start;
  for (; i < end && bytes[i] !== 46; i += 1) {
    const code = bytes[i]!;
    if (code < 48 || code > 57) return NaN;
    seconds = seconds * 10 + (code - 48);
  }
  if (i === start || i - start > 10 || i === end - 1 || end - start > 32) return NaN;
  let micros = 0;
  let places = 0;
  for (i += 1; i < end; i += 1) {
    const code = bytes[i]!;
    if (code < 48 || code > 57) return NaN;
    if (places < 6) {
      micros = micros * 10 + (code - 48);
      places += 1;
    }
  }
  const total = seconds * 1_000_000 + micros * powersOfTen[6 - places]!;
  return Number.isSafeInteger(total) ? total : NaN;
};
