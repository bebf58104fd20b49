import { setTimeout as sleep } from 'node:timers/promises';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { SchemaStore } from './schema-store.ts';

export interface SchemaKeeperOptions {
  schemas: Pick<SchemaStore, 'load'>;
  log: { warn(fields: Record<string, unknown>, message: string): void };
  /** Wait before the registry or the store is asked again; doubles up to a minute. */
  retryMs?: number;
  signal?: AbortSignal;
}

/** Rubbish names a new id in each record: more than these are not remembered, nor asked for, at once. */
const idsMax = 10_000;
const askedAtOnceMax = 8;
const retryMsMax = 60_000;
/** An id that nobody knows may be registered later. */
const unknownForMs = 60_000;

/**
 * Sees to it that the lake keeps the schema of every id that is ingested, from the moment on in which its first record is: the
 * registry may be rebuilt with other ids before anybody refines it. Never in the way of ingestion: it works in the background and
 * for as long as registry or store are away.
 */
export class SchemaKeeper {
  private readonly options: SchemaKeeperOptions;
  private readonly seen = new Map<number, 'kept' | { until: number }>();
  private readonly waiting: number[] = [];
  private readonly running = new Set<Promise<void>>();

  constructor(options: SchemaKeeperOptions) {
    this.options = options;
  }

  see(ids: Iterable<number>): void {
    if (this.seen.size >= idsMax) this.forgetUnknown();
    for (const id of ids) {
      const known = this.seen.get(id);
      if (known === 'kept' || (known && known.until > performance.now())) continue;
      if (this.seen.size >= idsMax) continue;
      this.seen.set(id, { until: Infinity });
      this.waiting.push(id);
    }
    this.start();
  }

  private start(): void {
    while (this.waiting.length > 0 && this.running.size < askedAtOnceMax) {
      const work = this.keep(this.waiting.shift()!).finally(() => {
        this.running.delete(work);
        this.start();
      });
      this.running.add(work);
    }
  }

  /** Resolves when nothing is being kept. */
  async idle(): Promise<void> {
    while (this.running.size > 0) await Promise.all(this.running);
  }

  private forgetUnknown(): void {
    for (const [id, state] of this.seen) if (state !== 'kept' && state.until <= performance.now()) this.seen.delete(id);
  }

  private async keep(id: number): Promise<void> {
    const { schemas, log, signal, retryMs = 1_000 } = this.options;
    for (let attempt = 0; ; attempt += 1) {
      if (signal?.aborted) return;
      try {
        await schemas.load(id);
        this.seen.set(id, 'kept');
        return;
      } catch (error) {
        if (isTidemarkError(error, 'SCHEMA_NOT_FOUND')) {
          this.seen.set(id, { until: performance.now() + unknownForMs });
          return;
        }
        const isTransient = error instanceof TidemarkError && error.retryable;
        if (attempt === 0 || !isTransient) log.warn({ schemaId: id, error: error instanceof Error ? error.message : String(error) }, 'the lake does not keep this schema yet');
        if (!isTransient) {
          this.seen.set(id, { until: performance.now() + unknownForMs });
          return;
        }
        await sleep(Math.min(retryMsMax, retryMs * 2 ** Math.min(attempt, 16)), undefined, { ref: false, ...(signal ? { signal } : {}) }).catch(() => undefined);
      }
    }
  }
}
