import { TidemarkError } from '../domain/errors.ts';

/** A JSON value whose numbers stay the text of the frame: 0.01300000 and ids beyond 2^53 have no double that is equal to them. */
export type JsonText = string | NumberText | boolean | null | JsonText[] | JsonTextObject;
/** A number literal as it stood in the frame; a string of the frame stays a plain string. */
export class NumberText {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}
export interface JsonTextObject {
  [field: string]: JsonText;
}

/** Frames are flat; a deeper one is rubbish, and must not overflow the stack. */
const depthMax = 64;

const quote = 0x22;
const backslash = 0x5c;
const numberLiteral = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

/**
 * Parses JSON and keeps number literals as text. JSON.parse with a reviver that reads `context.source` gives the same
 * in 5.9 µs a trade frame, this takes 1.6 µs, and JSON.parse alone 1.0 µs.
 *
 * @throws TidemarkError BAD_INPUT where JSON.parse would throw, and for more than 64 levels.
 */
export const parseJsonText = (text: string): JsonText => {
  let at = 0;
  let depth = 0;

  const fail = (expected: string): never => {
    throw new TidemarkError('BAD_INPUT', `JSON: expected ${expected} at ${at}, found ${JSON.stringify(text.slice(at, at + 20))}`);
  };

  const skipSpace = (): number => {
    let code = text.charCodeAt(at);
    while (code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09) code = text.charCodeAt(++at);
    return code;
  };

  const parseString = (): string => {
    const start = at + 1;
    let end = start;
    for (;;) {
      const code = text.charCodeAt(end);
      if (code === quote) {
        at = end + 1;
        return text.slice(start, end);
      }
      if (code === backslash) break;
      // NaN at the end of the text, and raw control characters: neither is JSON.
      if (!(code >= 0x20)) fail('the end of a string');
      end += 1;
    }
    // Escapes are rare in frames: let JSON.parse read the literal.
    while (text.charCodeAt(end) !== quote) {
      if (end >= text.length) fail('the end of a string');
      end += text.charCodeAt(end) === backslash ? 2 : 1;
    }
    const literal = text.slice(at, end + 1);
    at = end + 1;
    try {
      return JSON.parse(literal) as string;
    } catch {
      return fail('a string');
    }
  };

  const parseLiteral = <T extends JsonText>(literal: string, value: T): T => {
    if (!text.startsWith(literal, at)) fail('a value');
    at += literal.length;
    return value;
  };

  const parseNumber = (): NumberText => {
    numberLiteral.lastIndex = at;
    const match = numberLiteral.exec(text);
    if (!match) return fail('a value');
    at = numberLiteral.lastIndex;
    return new NumberText(match[0]);
  };

  const parseObject = (): JsonTextObject => {
    const object: JsonTextObject = {};
    at += 1;
    if (skipSpace() === 0x7d) {
      at += 1;
      return object;
    }
    for (;;) {
      if (skipSpace() !== quote) fail('a field name');
      const field = parseString();
      if (skipSpace() !== 0x3a) fail('":"');
      at += 1;
      const value = parseValue();
      if (field === '__proto__') Object.defineProperty(object, field, { value, enumerable: true, configurable: true, writable: true });
      else object[field] = value;
      const next = skipSpace();
      at += 1;
      if (next === 0x7d) return object;
      if (next !== 0x2c) fail('"," or "}"');
    }
  };

  const parseArray = (): JsonText[] => {
    const array: JsonText[] = [];
    at += 1;
    if (skipSpace() === 0x5d) {
      at += 1;
      return array;
    }
    for (;;) {
      array.push(parseValue());
      const next = skipSpace();
      at += 1;
      if (next === 0x5d) return array;
      if (next !== 0x2c) fail('"," or "]"');
    }
  };

  const parseValue = (): JsonText => {
    const code = skipSpace();
    if (code === 0x7b || code === 0x5b) {
      if (++depth > depthMax) fail(`at most ${depthMax} levels`);
      const value = code === 0x7b ? parseObject() : parseArray();
      depth -= 1;
      return value;
    }
    switch (code) {
      case quote: return parseString();
      case 0x74: return parseLiteral('true', true);
      case 0x66: return parseLiteral('false', false);
      case 0x6e: return parseLiteral('null', null);
      default: return parseNumber();
    }
  };

  const value = parseValue();
  skipSpace();
  if (at < text.length) fail('the end of the frame');
  return value;
};

/** Any value of a frame as text: strings and numbers as they stood, the rest as JSON. */
export const textOf = (value: JsonText): string => {
  if (typeof value === 'string') return value;
  if (value instanceof NumberText) return value.text;
  return jsonOf(value);
};

const jsonOf = (value: JsonText): string => {
  if (value instanceof NumberText) return value.text;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(jsonOf).join(',')}]`;
  return `{${Object.entries(value).map(([field, inner]) => `${JSON.stringify(field)}:${jsonOf(inner)}`).join(',')}}`;
};

export const isObject = (value: JsonText | undefined): value is JsonTextObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof NumberText);
