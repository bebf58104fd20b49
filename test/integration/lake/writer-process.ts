import { text } from 'node:stream/consumers';
import { createObjectStoreCatalog } from '../../../src/lake/object-store-catalog.ts';
import { createS3ObjectStore, type S3Options } from '../../../src/lake/s3-object-store.ts';
import { offsets, trades, tradesFile } from '../../lake/iceberg/fixtures.ts';

/** One of several processes that commit to one table at the same time: commits `from` to `to` - 1, then says how many attempts it took. */
export interface WriterInput { s3: S3Options; from: number; to: number }

const { s3, from, to } = JSON.parse(await text(process.stdin)) as WriterInput;
const store = createS3ObjectStore(s3);
const catalog = createObjectStoreCatalog({ store, namespace: 'market_data', commitAttemptsMax: 500 });
await catalog.ensureTable(trades);
let attempts = 0;
for (let n = from; n < to; n += 1) {
  const coverage = offsets(n * 10, n * 10 + 10);
  const result = await catalog.commit('trades', {
    commitId: `append-${n}`, add: [tradesFile(`file-${n}`, { exchange: 'BINANCE', hour: n % 24 })], coverageAbsent: coverage, cover: coverage,
  });
  if (result.status !== 'committed') throw new Error(`append-${n}: expected to be committed by this process, found ${result.status}`);
  attempts += result.attempts;
}
store.close();
process.stdout.write(JSON.stringify({ attempts }));
