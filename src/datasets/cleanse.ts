// Functions that mend rejected records. They are shipped with the worker and named in the pipeline module; what one returns is
// stored as replacement bytes, so that the record is refined the same way ever after, also when the function has changed.

/** What a cleanse function knows of the record besides its fields. */
export interface CleanseContext {
  readonly source: string;
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  /** µs since the epoch. */
  readonly kafkaTimestamp: bigint;
  /** The id that the bytes name; null: they name none. */
  readonly schemaId: number | null;
  readonly errorType: string;
  /** Why the record was refused, the deciding reason first. */
  readonly reasons: readonly string[];
  /** Null: a tombstone. */
  readonly rawBytes: Uint8Array | null;
}

/** Verdict: never to be refined, for this reason. */
export class Purge {
  readonly reason: string;
  constructor(reason: string) {
    this.reason = reason;
  }
}
export const purge = (reason: string): Purge => new Purge(reason);

/** Verdict: the record stays as it is. */
export const keep = Symbol('keep');

export interface CleanseFunction {
  /** One line for the operator. */
  readonly description: string;
  /** Sources whose records it takes. */
  readonly sources: readonly string[];
  /**
   * A pure function of its arguments. `record` has the fields of the dataset's raw schema; null: the bytes do not decode.
   * Returns a whole record, or {@link purge}, or {@link keep}. It must not change the record that it is given.
   */
  cleanse(record: unknown, context: CleanseContext): object | Purge | typeof keep;
}

/** Gives the record its type. */
export const defineCleanse = <Raw extends object>(spec: {
  description: string;
  sources: readonly string[];
  cleanse(record: Raw | null, context: CleanseContext): Raw | Purge | typeof keep;
}): CleanseFunction => ({ ...spec, cleanse: (record, context) => spec.cleanse(record as Raw | null, context) });
