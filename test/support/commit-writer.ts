import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { createS3ObjectStore } from '../../src/lake/s3-object-store.ts';
import type { S3Options } from '../../src/lake/s3-object-store.ts';
import { offsets, trades, tradesFile } from '../lake/iceberg/fixtures.ts';

/**
 * A process that commits to one table without pause until its stdin ends, and prints the number of commits that it knows
 * to have succeeded. Its neighbours delete all but five versions after each of their commits, and so does it.
 */
export interface CommitWriterInput {
  s3: S3Options;
  /** The topic partition that is its own. */
  writer: number;
  keepVersions: number;
}

const { s3, writer, keepVersions } = JSON.parse(process.env['COMMIT_WRITER']!) as CommitWriterInput;
const store = createS3ObjectStore(s3);
const catalog = createObjectStoreCatalog({ store, namespace: 'market_data', commitAttemptsMax: 10_000, keepVersions, metadataGraceMs: 0, expireMetadataEvery: 1 });
const stopping = new AbortController();
process.stdin.on('end', () => stopping.abort()).resume();
await catalog.ensureTable(trades);
let commits = 0;
for (; !stopping.signal.aborted; commits += 1) {
  const coverage = offsets(commits * 10, commits * 10 + 10, writer);
  await catalog.commit('trades', {
    commitId: `append-${writer}-${commits}`, add: [tradesFile(`file-${writer}-${commits}`, { exchange: 'BINANCE', hour: commits % 24 })], coverageAbsent: coverage, cover: coverage,
  });
}
await catalog.settled();
store.close();
process.stdout.write(JSON.stringify({ commits }));
