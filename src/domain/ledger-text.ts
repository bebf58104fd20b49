import { TidemarkError, invariant } from './errors.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey, topicPartitionKey } from './offsets.ts';
import type { Interval } from './offsets.ts';

// The short form in which a ledger crosses continue-as-new: numbers in base 36, lengths instead of ends, topics by index.
// A ledger of 500 topic partitions has to fit into one payload; as plain JSON it is several times larger.

const radix = 36;

export const packNumber = (value: bigint | number): string => value.toString(radix);

export const unpackNumber = (text: string): bigint => {
  let value = 0n;
  for (const digit of text) {
    const number = Number.parseInt(digit, radix);
    if (!Number.isInteger(number)) throw new TidemarkError('BAD_INPUT', `carried ledger: expected a number in base ${radix}, found ${JSON.stringify(text)}`);
    value = value * BigInt(radix) + BigInt(number);
  }
  return value;
};

/** Texts that occur often, by index; the list itself travels once. */
export class TextTable {
  readonly texts: string[];
  private readonly indices = new Map<string, number>();

  constructor(texts: readonly string[] = []) {
    this.texts = [...texts];
    this.texts.forEach((text, index) => this.indices.set(text, index));
  }

  indexOf(text: string): number {
    const known = this.indices.get(text);
    if (known !== undefined) return known;
    this.indices.set(text, this.texts.length);
    this.texts.push(text);
    return this.texts.length - 1;
  }

  at(index: number): string {
    const text = this.texts[index];
    invariant(text !== undefined, () => `carried ledger: expected an index below ${this.texts.length}, found ${index}`);
    return text;
  }
}

/** `<topic index>/<partition>`. */
export const packKey = (key: string, topics: TextTable): string => {
  const { topic, partition } = parseTopicPartitionKey(key);
  return `${packNumber(topics.indexOf(topic))}/${packNumber(partition)}`;
};

export const unpackKey = (text: string, topics: TextTable): string => {
  const [topic = '', partition = ''] = text.split('/');
  return topicPartitionKey(topics.at(Number(unpackNumber(topic))), Number(unpackNumber(partition)));
};

export const packInterval = ({ start, end }: Interval): string => `${packNumber(start)}+${packNumber(end - start)}`;

export const unpackInterval = (text: string): Interval => {
  const [start = '', length = ''] = text.split('+');
  const from = unpackNumber(start);
  return { start: from, end: from + unpackNumber(length) };
};

/** `<key>:<start>+<length>,…;…` */
export const packCoverage = (coverage: Coverage, topics: TextTable): string =>
  coverage.entries().map(([key, { intervals }]) => `${packKey(key, topics)}:${intervals.map(packInterval).join(',')}`).join(';');

export const unpackCoverage = (text: string, topics: TextTable): Coverage => Coverage.of(text === '' ? [] : text.split(';').map((part) => {
  const [key = '', intervals = ''] = part.split(':');
  return [unpackKey(key, topics), IntervalSet.of(...intervals.split(',').map(unpackInterval))] as const;
}));
