import { TidemarkError } from '../domain/errors.ts';

/**
 * Walks an encoded value without building it. Gives the position after it, or `-1 - position` where the bytes stop being
 * a value of the schema: past the end, a length below zero, a union branch or enum symbol that is not there, a boolean
 * other than 0 and 1. avsc alone would loop for minutes over a map whose count was corrupted.
 */
export type AvroWalk = (bytes: Uint8Array, position: number, end: number) => number;

type AvroJson = string | readonly AvroJson[] | { readonly type: AvroJson; readonly name?: string; readonly namespace?: string; readonly fields?: readonly { readonly type: AvroJson }[];
  readonly items?: AvroJson; readonly values?: AvroJson; readonly symbols?: readonly string[]; readonly size?: number };

/** A long takes at most ten bytes. */
const skipLong: AvroWalk = (bytes, position, end) => {
  const last = position + 10 < end ? position + 10 : end;
  for (let i = position; i < last; i += 1) {
    if (bytes[i]! < 0x80) return i + 1;
  }
  return -1 - position;
};

/** A length below 2^31 in at most five bytes, as the value itself; -1 for anything else. */
const lengthAt = (bytes: Uint8Array, position: number, end: number): number => {
  let value = 0;
  let scale = 1;
  const last = position + 5 < end ? position + 5 : end;
  for (let i = position; i < last; i += 1) {
    const byte = bytes[i]!;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return value % 2 === 0 ? value / 2 : -1;
    scale *= 128;
  }
  return -1;
};

const skipBytes: AvroWalk = (bytes, position, end) => {
  // Most texts are shorter than 64 bytes: one byte of length.
  const first = bytes[position]!;
  if (position < end && first < 0x80) {
    const next = position + 1 + (first >> 1);
    return (first & 1) === 0 && next <= end ? next : -1 - position;
  }
  const length = lengthAt(bytes, position, end);
  if (length < 0) return -1 - position;
  const next = skipLong(bytes, position, end) + length;
  return next <= end ? next : -1 - position;
};

const skipFixed = (size: number): AvroWalk => (_bytes, position, end) => (position + size <= end ? position + size : -1 - position);
const skipBoolean: AvroWalk = (bytes, position, end) => (position < end && bytes[position]! <= 1 ? position + 1 : -1 - position);

/** Blocks of an array or a map: a count, negative when the block's size in bytes follows; a zero count ends. */
const skipBlocks = (skipItem: AvroWalk): AvroWalk => (bytes, position, end) => {
  let at = position;
  for (;;) {
    const countAt = at;
    at = skipLong(bytes, countAt, end);
    if (at < 0) return at;
    if (at - countAt > 5) return -1 - countAt;
    let raw = 0;
    let scale = 1;
    for (let i = countAt; i < at; i += 1) {
      raw += (bytes[i]! & 0x7f) * scale;
      scale *= 128;
    }
    if (raw === 0) return at;
    let count = raw / 2;
    if (raw % 2 === 1) {
      count = (raw + 1) / 2;
      at = skipLong(bytes, at, end);
      if (at < 0) return at;
    }
    // Items take bytes, so that the count is bounded by what is left; a list of empty records past that is refused too.
    if (count > end - at) return -1 - countAt;
    for (let i = 0; i < count; i += 1) {
      at = skipItem(bytes, at, end);
      if (at < 0) return at;
    }
  }
};

const skipInOrder = (parts: readonly AvroWalk[]): AvroWalk => (bytes, position, end) => {
  let at = position;
  for (let i = 0; i < parts.length; i += 1) {
    at = parts[i]!(bytes, at, end);
    if (at < 0) return at;
  }
  return at;
};

const skipBranch = (branches: readonly AvroWalk[]): AvroWalk => (bytes, position, end) => {
  const branch = branches[lengthAt(bytes, position, end)];
  if (!branch) return -1 - position;
  return branch(bytes, skipLong(bytes, position, end), end);
};

const primitives: Readonly<Record<string, AvroWalk>> = {
  null: (_bytes, position) => position,
  boolean: skipBoolean,
  int: skipLong,
  long: skipLong,
  float: skipFixed(4),
  double: skipFixed(8),
  bytes: skipBytes,
  string: skipBytes,
};

/** Compiles the walk of a schema (parsed JSON). SCHEMA_INCOMPATIBLE for what is no Avro schema. */
export const compileAvroWalk = (schema: unknown): AvroWalk => {
  const named = new Map<string, AvroWalk>();

  const compile = (type: AvroJson, namespace: string): AvroWalk => {
    if (typeof type === 'string') {
      const walk = primitives[type] ?? named.get(type) ?? named.get(`${namespace}.${type}`);
      if (!walk) throw new TidemarkError('SCHEMA_INCOMPATIBLE', `Avro schema: expected a known type, found ${JSON.stringify(type)}`);
      return walk;
    }
    if (Array.isArray(type)) return skipBranch((type as readonly AvroJson[]).map((branch) => compile(branch, namespace)));
    const complex = type as Exclude<AvroJson, string | readonly AvroJson[]>;
    const fullName = complex.name === undefined ? '' : complex.name.includes('.') ? complex.name : `${complex.namespace ?? namespace}.${complex.name}`;
    const inner = fullName === '' ? namespace : fullName.slice(0, fullName.lastIndexOf('.'));
    const register = (walk: AvroWalk): AvroWalk => {
      named.set(fullName, walk);
      return walk;
    };
    switch (complex.type) {
      case 'record': case 'error': {
        // Registered before its fields: a record may contain itself.
        let walk: AvroWalk | undefined;
        register((bytes, position, end) => walk!(bytes, position, end));
        walk = skipInOrder((complex.fields ?? []).map((field) => compile(field.type, inner)));
        return register(walk);
      }
      case 'enum': {
        const count = complex.symbols?.length ?? 0;
        return register((bytes, position, end) => {
          const symbol = lengthAt(bytes, position, end);
          return symbol >= 0 && symbol < count ? skipLong(bytes, position, end) : -1 - position;
        });
      }
      case 'fixed': return register(skipFixed(complex.size ?? 0));
      case 'array': {
        if (complex.items === 'null') throw new TidemarkError('SCHEMA_INCOMPATIBLE', 'Avro schema: an array of nulls has no bound');
        return skipBlocks(compile(complex.items ?? '', namespace));
      }
      case 'map': return skipBlocks(skipInOrder([skipBytes, compile(complex.values ?? '', namespace)]));
      default: return compile(complex.type, namespace);
    }
  };
  return compile(schema as AvroJson, '');
};

/** As {@link AvroWalk}, over a record; writes where each field starts, and behind the last one where the record ends. */
export type AvroFieldWalk = (bytes: Uint8Array, position: number, end: number, starts: Int32Array) => number;

/** Compiles the walk of a record schema (parsed JSON) that finds its fields. SCHEMA_INCOMPATIBLE for what is no record schema. */
export const compileAvroFieldWalk = (schema: unknown): { fieldCount: number; walk: AvroFieldWalk } => {
  const { type, fields = [] } = (typeof schema === 'object' && schema !== null ? schema : {}) as Exclude<AvroJson, string | readonly AvroJson[]>;
  if (type !== 'record') throw new TidemarkError('SCHEMA_INCOMPATIBLE', 'Avro schema: expected a record');
  // Each field by itself: one that names a type of another field is refused, and such records are decoded as objects.
  const walks = fields.map((field) => compileAvroWalk(field.type));
  const fieldCount = walks.length;
  return {
    fieldCount,
    walk: (bytes, position, end, starts) => {
      let at = position;
      for (let i = 0; i < fieldCount; i += 1) {
        starts[i] = at;
        at = walks[i]!(bytes, at, end);
        if (at < 0) return at;
      }
      starts[fieldCount] = at;
      return at;
    },
  };
};
