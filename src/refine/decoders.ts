import type { Dataset } from '../datasets/dataset.ts';
import { eachAtOnce } from '../domain/at-once.ts';
import { isTidemarkError } from '../domain/errors.ts';
import { compileDecoder } from '../schema-registry/avro-decoder.ts';
import type { SchemaStore } from '../schema-registry/schema-store.ts';
import type { DecoderOrReason } from './transform.ts';

/** A topic of rubbish names a new id in each record; the registry is asked for this many at once. */
const lookupsAtOnce = 8;
/** How long an unknown id is not asked for again. */
const unknownForMs = 30_000;
const unknownMax = 10_000;

/** Decoders of one dataset by schema id. What an id means never changes (see schema-store.ts), so decoders are kept. */
export class DecoderCache {
  private readonly dataset: Dataset;
  private readonly schemas: SchemaStore;
  private readonly known = new Map<number, DecoderOrReason>();
  private readonly unknown = new Map<number, { until: number; found: DecoderOrReason }>();

  constructor(dataset: Dataset, schemas: SchemaStore) {
    this.dataset = dataset;
    this.schemas = schemas;
  }

  /** An entry for every id. Throws only what a retry can help: REGISTRY_UNAVAILABLE, OBJECT_STORE_UNAVAILABLE. */
  async lookUp(ids: Iterable<number>): Promise<Map<number, DecoderOrReason>> {
    const found = new Map<number, DecoderOrReason>();
    await eachAtOnce([...ids], lookupsAtOnce, async (id) => { found.set(id, await this.decoderOf(id)); });
    return found;
  }

  private async decoderOf(id: number): Promise<DecoderOrReason> {
    const known = this.known.get(id);
    if (known) return known;
    const refused = this.unknown.get(id);
    if (refused && refused.until > performance.now()) return refused.found;
    let entry: DecoderOrReason;
    try {
      const { schema } = id < 0 ? { schema: undefined } : await this.schemas.load(id);
      entry = schema === undefined
        ? { reason: 'unknown_schema_id', detail: `schema id ${id}: ids are not negative` }
        : { decoder: compileDecoder(schema, this.dataset.rawSchema) };
    } catch (error) {
      if (isTidemarkError(error, 'SCHEMA_NOT_FOUND')) entry = { reason: 'unknown_schema_id', detail: `schema id ${id}: neither the lake nor the registry knows it` };
      else if (isTidemarkError(error, 'SCHEMA_INCOMPATIBLE')) entry = { reason: 'incompatible_schema', detail: `schema id ${id}: ${error.message}` };
      else throw error;
    }
    if ('reason' in entry && entry.reason === 'unknown_schema_id') {
      if (this.unknown.size >= unknownMax) this.unknown.clear();
      this.unknown.set(id, { until: performance.now() + unknownForMs, found: entry });
    } else {
      this.known.set(id, entry);
    }
    return entry;
  }
}
