import { parseBronzeFileSuffix } from '../contracts/bronze.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { topicPartitionKey } from '../domain/offsets.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { PrimitiveType } from '../lake/schema.ts';
import type { LiveFile, TableVersion } from '../lake/table.ts';
import { readRows } from './read-rows.ts';
import type { ReplayRow } from './refine-rows.ts';

/** A DLQ row before its Bronze file is known. */
export type UnplacedRow = Omit<ReplayRow, 'ingestion'> & {
  /** The DLQ has no bytes because the Bronze file gave none. */
  lacksBytes: boolean;
};

interface NamedFile {
  file: LiveFile;
  start: number;
  end: number;
  ingestion: bigint;
}

const lineage = ['topic', 'partition', 'offset'] as const;

/**
 * Gives each row what Bronze alone knows: the time of its Bronze file, by the file's name and bounds, so that nothing is read;
 * of files that hold several times (compacted ones) the columns are read. Rows whose bytes the DLQ lacks get them from Bronze if
 * it gives them by now. Throws BAD_INPUT for rows that Bronze does not hold any more.
 */
export const placeInBronze = async (store: ObjectStore, bronze: TableVersion, rows: readonly UnplacedRow[], signal?: AbortSignal): Promise<ReplayRow[]> => {
  if (rows.length === 0) return [];
  const offsets = rows.map(({ offset }) => offset);
  const least = offsets.reduce((a, b) => Math.min(a, b));
  const greatest = offsets.reduce((a, b) => Math.max(a, b));
  const files = await bronze.scan({ bounds: [{ column: 'offset', min: BigInt(least), max: BigInt(greatest) }] });
  const field = (name: string) => bronze.fields.find((candidate) => candidate.name === name)!;
  const bound = (bounds: Record<number, string>, name: string): bigint | undefined => {
    const { id, type } = field(name);
    return bounds[id] === undefined ? undefined : BigInt(decodeSingleValue(type as PrimitiveType, Buffer.from(bounds[id], 'base64')) as bigint | number);
  };
  const named = new Map<string, NamedFile[]>();
  const mixed: LiveFile[] = [];
  for (const file of files) {
    const ingestion = bound(file.lowerBounds, 'ingestion_timestamp');
    const place = namedPlace(file);
    if (!place || ingestion === undefined || ingestion !== bound(file.upperBounds, 'ingestion_timestamp')) {
      mixed.push(file);
      continue;
    }
    const key = topicPartitionKey(place.topic, place.partition);
    const known = named.get(key) ?? [];
    named.set(key, known);
    known.push({ file, start: Number(place.start), end: Number(place.end), ingestion });
  }
  for (const list of named.values()) list.sort((a, b) => a.start - b.start);

  const ingestions: (bigint | undefined)[] = rows.map(() => undefined);
  const waiting = new Map<string, number>();
  /** Rows whose bytes are to be read, by Bronze file. */
  const wanted = new Map<LiveFile, Map<string, number>>();
  const want = (file: LiveFile, key: string, index: number): void => {
    const known = wanted.get(file) ?? new Map<string, number>();
    wanted.set(file, known.set(key, index));
  };
  for (const [i, { topic, partition, offset, lacksBytes }] of rows.entries()) {
    const key = topicPartitionKey(topic, partition);
    const found = fileOf(named.get(key) ?? [], offset);
    if (!found) {
      waiting.set(`${key}/${offset}`, i);
      continue;
    }
    ingestions[i] = found.ingestion;
    if (lacksBytes) want(found.file, `${key}/${offset}`, i);
  }
  if (waiting.size > 0) {
    for await (const { file, batch: { rowCount, columns } } of readRows(store, mixed, [...lineage, 'ingestion_timestamp'], signal)) {
      for (let row = 0; row < rowCount; row += 1) {
        const key = `${topicPartitionKey(columns['topic']![row] as string, columns['partition']![row] as number)}/${columns['offset']![row] as bigint}`;
        const i = waiting.get(key);
        if (i === undefined) continue;
        waiting.delete(key);
        ingestions[i] = columns['ingestion_timestamp']![row] as bigint;
        if (rows[i]!.lacksBytes) want(file, key, i);
      }
      if (waiting.size === 0) break;
    }
  }
  if (waiting.size > 0) {
    const [first] = waiting.keys();
    throw new TidemarkError('BAD_INPUT', `${bronze.name}: expected the Bronze rows of ${rows.length} DLQ rows, found none of ${waiting.size}, among them ${first}: restore what retention took, then replay`);
  }

  const raws = new Map<number, Uint8Array | null>();
  const unreadable = new Map<number, string>();
  for (const [file, places] of wanted) {
    try {
      for await (const { batch: { rowCount, columns } } of readRows(store, [file], [...lineage, 'raw_bytes'], signal)) {
        for (let row = 0; row < rowCount; row += 1) {
          const i = places.get(`${topicPartitionKey(columns['topic']![row] as string, columns['partition']![row] as number)}/${columns['offset']![row] as bigint}`);
          const raw = columns['raw_bytes']![row] as Uint8Array | null;
          // A copy: the view would keep its whole page.
          if (i !== undefined) raws.set(i, raw === null ? null : Uint8Array.from(raw));
        }
      }
    } catch (error) {
      if (!isTidemarkError(error, 'FILE_UNREADABLE') && !isTidemarkError(error, 'OBJECT_NOT_FOUND')) throw error;
      for (const i of places.values()) unreadable.set(i, error.message);
    }
  }
  return rows.map((row, i): ReplayRow => {
    const cause = unreadable.get(i);
    return { ...row, ingestion: ingestions[i]!, ...(raws.has(i) ? { raw: raws.get(i)! } : {}), ...(cause === undefined ? {} : { unreadable: cause }) };
  });
};

const namedPlace = ({ filePath }: LiveFile): ReturnType<typeof parseBronzeFileSuffix> | undefined => {
  try {
    return parseBronzeFileSuffix(filePath.slice(filePath.indexOf('/data/') + '/data/'.length));
  } catch (error) {
    if (isTidemarkError(error, 'BAD_INPUT')) return undefined;
    throw error;
  }
};

/** Ranges of Bronze files do not overlap. */
const fileOf = (files: readonly NamedFile[], offset: number): NamedFile | undefined => {
  let low = 0;
  let high = files.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const file = files[middle]!;
    if (offset < file.start) high = middle - 1;
    else if (offset >= file.end) low = middle + 1;
    else return file;
  }
  return undefined;
};
