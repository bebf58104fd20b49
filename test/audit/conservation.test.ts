import { expect, test } from 'vitest';
import type { AuditPromise, AuditReport } from '../../src/contracts/audit.ts';
import { dlqTable } from '../../src/datasets/engine-tables.ts';
import { coverageOfReadings, createHealthyLake, createSmallLake, datasetOf, hourMicros, pipeline, plainReadings, topicOf, winnersOf } from './small-lake.ts';
import type { Reading, SmallLake } from './small-lake.ts';

const promisesOf = (report: AuditReport): AuditPromise[] => [...new Set(report.findings.map(({ promise }) => promise))].sort();
const offsetsOf = (report: AuditReport, promise: AuditPromise, subject?: string) => report.findings
  .filter((finding) => finding.promise === promise && (subject === undefined || finding.subject === subject))
  .map(({ topic, partition, startOffset, endOffset }) => `${topic}/${partition} ${startOffset}-${endOffset}`);
const north = datasetOf('north');
const south = datasetOf('south');
const { gold } = north;

const silverFileWith = async (lake: SmallLake, hour: number, site: string) => {
  const files = await (await lake.catalog.load(north.silver.name)).scan({ partition: { at: hour } });
  const siteId = north.silver.fields.find(({ name }) => name === 'site')!.id;
  return files.find(({ lowerBounds }) => Buffer.from(lowerBounds[siteId]!, 'base64').toString() === site)!;
};
const firstHour = Math.floor(1_700_000_000_000_000 / hourMicros);

test('a healthy lake has no finding, and its figures are those of the model', async () => {
  const lake = await createHealthyLake();
  const report = await lake.audit({ kafka: lake.kafka });
  expect(report.findings).toEqual([]);
  expect(report.ok).toBe(true);
  const valid = lake.all.filter(({ isValid }) => isValid);
  expect(report.gold).toEqual([expect.objectContaining({
    table: gold.name, rows: winnersOf(lake.all).length, silverRows: valid.length, distinctKeys: winnersOf(lake.all).length, duplicates: valid.length - winnersOf(lake.all).length, unmergedRows: 0,
  })]);
  expect(report.sources.map(({ source, bronzeRows, silverRows, dlqRows, dlqOpenRows, sparseOffsets, unrefinedRows, kafkaLag }) => ({ source, bronzeRows, silverRows, dlqRows, dlqOpenRows, sparseOffsets, unrefinedRows, kafkaLag })))
    .toEqual(['north', 'south'].map((source) => ({ source, bronzeRows: 600, silverRows: 540, dlqRows: 60, dlqOpenRows: 60, sparseOffsets: '0', unrefinedRows: 0, kafkaLag: '0' })));
  expect(report.tables.find(({ table }) => table === north.bronze.name)).toMatchObject({ files: 4, rows: 600, checksummedFiles: 4, unreferenced: { files: 0 } });
});

test('a surplus of 52 % in Bronze is found with its exact offsets', async () => {
  const lake = await createHealthyLake();
  const again = lake.all.filter(({ source, partition, offset }) => source === 'north' && partition === 1 && offset % 100 < 52);
  await lake.append(north.bronze.name, [await lake.writeFile(north.bronze, again.map(lake.rows.bronzeRow), { ingestion_timestamp: 20_370 })]);
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'bronze-once')).toEqual(['north.raw/1 0-52', 'north.raw/1 100-152', 'north.raw/1 200-252']);
  expect(promisesOf(report)).toEqual(['bronze-once']);
});

test('a surplus of 52 % in Silver is found with its exact offsets', async () => {
  const lake = await createHealthyLake();
  const again = lake.all.filter(({ source, partition, offset, isValid }) => source === 'north' && partition === 0 && isValid && offset % 100 < 52);
  for (const rows of Map.groupBy(again, ({ at }) => Math.floor(at / hourMicros)).values()) {
    await lake.append(north.silver.name, [await lake.writeFile(north.silver, rows.map(lake.rows.silverRow), { at: Math.floor(rows[0]!.at / hourMicros) })]);
  }
  const report = await lake.audit({ kafka: lake.kafka });
  expect(promisesOf(report)).toEqual(['refined-once']);
  expect(report.findingsByPromise['refined-once']!.offsets).toBe(String(again.length));
  expect(offsetsOf(report, 'refined-once')[0]).toBe('north.raw/0 0-3');
});

test('a Bronze file that was appended three times is found with its exact offsets', async () => {
  const lake = await createHealthyLake();
  const file = lake.bronzeFiles[1]!;
  const { body } = await lake.store.get(lake.store.keyOf(file.filePath));
  for (const epoch of [2, 3]) {
    const filePath = file.filePath.replace(/-1\.parquet$/, `-${epoch}.parquet`);
    await lake.store.put(lake.store.keyOf(filePath), body);
    await lake.append(north.bronze.name, [{ ...file, filePath }]);
  }
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'bronze-once')).toEqual(['north.raw/0 150-300']);
  expect(report.findings[0]!.detail).toContain('300 rows');
  expect(promisesOf(report)).toEqual(['bronze-once']);
});

test('rows that vanished from Silver and from the DLQ are found with their exact offsets', async () => {
  const lake = await createHealthyLake();
  const dlq = dlqTable(pipeline.dlqTable);
  const dlqFile = (await (await lake.catalog.load(dlq.name)).scan({ partition: { bronze_source: 'south' } }))[0]!;
  await lake.rewrite(dlq, dlqFile.filePath, ({ kafka_partition, kafka_offset }) => kafka_partition !== 0 || (kafka_offset as bigint) < 100n || (kafka_offset as bigint) >= 120n);
  const silverFile = await silverFileWith(lake, firstHour, 'north-0');
  await lake.replace(north.silver.name, [silverFile.filePath], []);
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'refined-once', south.silver.name)).toEqual(['south.raw/0 103-104', 'south.raw/0 113-114']);
  expect(offsetsOf(report, 'refined-once', north.silver.name).length).toBeGreaterThan(10);
  // Gold still has them: their Silver rows are gone.
  expect(promisesOf(report)).toEqual(['gold-from-silver', 'refined-once']);
});

test('one row deleted inside one Silver file is found with its offset', async () => {
  const lake = await createHealthyLake();
  const file = await silverFileWith(lake, firstHour, 'north-1');
  await lake.rewrite(north.silver, file.filePath, ({ kafka_partition, kafka_offset }) => !(kafka_partition === 1 && kafka_offset === 55n));
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'refined-once')).toEqual(['north.raw/1 55-56']);
  // Offset 56 repeats its key, so Gold's row still has a Silver row, but not that of its lineage.
  expect(offsetsOf(report, 'gold-least-wins')).toEqual(['north.raw/1 55-56']);
  expect(report.findings.find(({ promise }) => promise === 'gold-least-wins')!.detail).toContain('north-1 1:55, whose least is north.raw/1 offset 56');
});

test('one row deleted inside one Bronze file is found by its refined row', async () => {
  const lake = await createHealthyLake();
  await lake.rewrite(north.bronze, lake.bronzeFiles[0]!.filePath, ({ offset }) => offset !== 77n);
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'refined-from-bronze')).toEqual(['north.raw/0 77-78']);
});

test('a source without rows is found where Kafka has records', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 40);
  await lake.ingest('north', 0, 0, 40, rows);
  await lake.refine('north', rows, coverageOfReadings(rows));
  await lake.merge(winnersOf(rows), coverageOfReadings(rows));
  const report = await lake.audit({ kafka: (topic) => Promise.resolve(new Map([[0, { logStart: 0n, logEnd: topic === topicOf('south') ? 12_000n : 40n }]])) });
  expect(report.findings).toEqual([expect.objectContaining({ promise: 'source-has-rows', subject: 'south', topic: 'south.raw' })]);
});

test('a deleted data file is found with its name and its exact offsets', async () => {
  const lake = await createHealthyLake();
  const file = lake.bronzeFiles[2]!;
  await lake.store.delete([lake.store.keyOf(file.filePath)]);
  const report = await lake.audit({ kafka: lake.kafka });
  const [finding] = report.findings.filter(({ promise }) => promise === 'files-intact');
  expect(finding).toMatchObject({ subject: north.bronze.name, topic: 'north.raw', partition: 1, startOffset: '0', endOffset: '150' });
  expect(finding!.detail).toContain(file.filePath);
  expect(offsetsOf(report, 'bronze-covered')).toEqual(['north.raw/1 0-150']);
  expect(report.findings.filter(({ promise }) => promise === 'refined-from-bronze').length).toBeGreaterThan(0);
});

test('a deleted Silver or Gold file is found, and the rows that it held', async () => {
  const lake = await createHealthyLake();
  const silverFile = await silverFileWith(lake, firstHour, 'north-0');
  const [goldFile] = await (await lake.catalog.load(gold.name)).scan({ partition: { site: 'south-0', at: firstHour } });
  await lake.store.delete([silverFile, goldFile!].map(({ filePath }) => lake.store.keyOf(filePath)));
  const report = await lake.audit({ kafka: lake.kafka });
  expect(report.findings.filter(({ promise }) => promise === 'files-intact').map(({ subject }) => subject).sort()).toEqual([gold.name, north.silver.name]);
  expect(promisesOf(report)).toEqual(['files-intact', 'gold-complete', 'gold-from-silver', 'refined-once']);
  expect(report.findingsByPromise['gold-complete']!.offsets).toBe(String(goldFile!.recordCount));
});

test('a Gold row without a Silver row is found with its key', async () => {
  const lake = await createHealthyLake();
  const stranger: Reading = { source: 'north', partition: 0, offset: 3, site: 'north-1', id: 'never-seen', at: 1_700_000_000_000_000, isValid: true };
  await lake.append(gold.name, [await lake.writeFile(gold, [lake.rows.goldRow(stranger)], { site: 'north-1', at: firstHour })]);
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'gold-from-silver')).toEqual(['north.raw/0 3-4']);
  expect(report.findings[0]!.detail).toContain('north-1 never-seen');
  expect(promisesOf(report)).toEqual(['gold-from-silver']);
});

test('a key that is in Gold twice is found, whichever row repeats it', async () => {
  const lake = await createHealthyLake();
  const twice = winnersOf(lake.all)[5]!;
  await lake.append(gold.name, [await lake.writeFile(gold, [lake.rows.goldRow(twice)], { site: twice.site, at: Math.floor(twice.at / hourMicros) })]);
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'gold-once')).toEqual([`north.raw/0 ${twice.offset}-${twice.offset + 1}`]);
  expect(report.findings[0]!.detail).toContain(`${twice.site} ${twice.id}`);
  expect(promisesOf(report)).toEqual(['gold-once']);
});

test('a duplicate that won over a lesser lineage is found', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 30);
  await lake.ingest('north', 0, 0, 30, rows);
  await lake.refine('north', rows, coverageOfReadings(rows));
  // Offset 21 repeats the key of 20.
  const wrong = winnersOf(rows).map((row) => (row.offset === 20 ? rows[21]! : row));
  expect(wrong).not.toEqual(winnersOf(rows));
  await lake.merge(wrong, coverageOfReadings(rows));
  const report = await lake.audit();
  expect(offsetsOf(report, 'gold-least-wins')).toEqual(['north.raw/0 21-22']);
  expect(promisesOf(report)).toEqual(['gold-least-wins']);
});

test('a Gold row whose lineage names the row of another key is found', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 30);
  await lake.ingest('north', 0, 0, 30, rows);
  await lake.refine('north', rows, coverageOfReadings(rows));
  await lake.merge(winnersOf(rows).map((row) => (row.offset === 8 ? { ...row, offset: 9 } : row)), coverageOfReadings(rows));
  const report = await lake.audit();
  expect(offsetsOf(report, 'gold-least-wins')).toEqual(['north.raw/0 9-10']);
});

test('a hole in Bronze, a gap that no row records, and a truncated topic are found with their exact offsets', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 100, 300);
  await lake.ingest('north', 0, 100, 150, rows.slice(0, 50));
  await lake.ingest('north', 0, 200, 300, rows.slice(100));
  await lake.recordGap('north', 0, 150, 160);
  const report = await lake.audit({ kafka: (topic) => Promise.resolve(new Map(topic === 'north.raw' ? [[0, { logStart: 90n, logEnd: 290n }]] : [])) });
  expect(offsetsOf(report, 'bronze-complete').sort()).toEqual(['north.raw/0 160-200', 'north.raw/0 290-300', 'north.raw/0 90-100']);
  expect(report.sources[0]).toMatchObject({ unrefinedRows: 150, gapOffsets: '10', kafkaLag: '0' });
});

test('an offset that is in Bronze and in a recorded gap is found', async () => {
  const lake = await createHealthyLake();
  await lake.recordGap('north', 0, 290, 310);
  const report = await lake.audit({ kafka: lake.kafka });
  expect(offsetsOf(report, 'bronze-once')).toEqual(['north.raw/0 290-300']);
});

test('coverage that no file stands for is found, and so are rows outside of the coverage', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 60);
  const file = await lake.ingest('north', 0, 0, 30, rows.slice(0, 30));
  await lake.ingest('north', 0, 30, 60, rows.slice(30));
  await lake.replace(north.bronze.name, [file.filePath], []);
  await lake.append(north.bronze.name, [await lake.writeFile(north.bronze, plainReadings('north', 1, 5, 8).map(lake.rows.bronzeRow), { ingestion_timestamp: 20_370 })]);
  const report = await lake.audit();
  expect(offsetsOf(report, 'bronze-covered').sort()).toEqual(['north.raw/0 0-30', 'north.raw/1 5-8', 'north.raw/1 5-8']);
});

test('a DLQ row is open, resolved or recovered, and never beside an unresolved Silver row', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 100);
  const rejected = rows.filter(({ isValid }) => !isValid);
  const [recovered, purged, both, pretended, retried] = rejected;
  await lake.ingest('north', 0, 0, 100, rows);
  await lake.refine('north', rows, coverageOfReadings(rows));
  const late: Reading[] = [recovered!, both!].map((reading) => ({ ...reading, isValid: true }));
  await lake.append(north.silver.name, [await lake.writeFile(north.silver, late.map(lake.rows.silverRow), { at: firstHour })]);
  await lake.merge(winnersOf([...rows, ...late]), coverageOfReadings(rows));
  await lake.resolve('north', [
    { reading: recovered!, action: 'recovered' }, { reading: purged!, action: 'purged' }, { reading: pretended!, action: 'recovered' },
    { reading: retried!, action: 'flagged', attempt: 1 },
  ]);
  const report = await lake.audit();
  expect(offsetsOf(report, 'refined-once')).toEqual([`north.raw/0 ${both!.offset}-${both!.offset + 1}`, `north.raw/0 ${pretended!.offset}-${pretended!.offset + 1}`]);
  expect(report.findings.map(({ detail }) => detail)).toEqual([expect.stringContaining('both without a resolution'), expect.stringContaining('resolved as recovered')]);
  expect(report.sources[0]).toMatchObject({ dlqRows: 10, dlqOpenRows: 6, recoveredRows: 1 });
});

test('the last resolution of an offset counts', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 20);
  const [first, second] = rows.filter(({ isValid }) => !isValid);
  await lake.ingest('north', 0, 0, 20, rows);
  await lake.refine('north', rows, coverageOfReadings(rows));
  await lake.append(north.silver.name, [await lake.writeFile(north.silver, [lake.rows.silverRow({ ...first!, isValid: true })], { at: firstHour })]);
  await lake.resolve('north', [{ reading: first!, action: 'recovered', at: 20n, attempt: 2 }, { reading: second!, action: 'recovered', at: 10n }]);
  await lake.resolve('north', [{ reading: first!, action: 'flagged', at: 10n, attempt: 1 }, { reading: second!, action: 'quarantined', at: 20n, attempt: 2 }]);
  await lake.merge(winnersOf([...rows, { ...first!, isValid: true }]), coverageOfReadings(rows));
  const report = await lake.audit();
  expect(report.findings).toEqual([]);
  expect(report.sources[0]).toMatchObject({ dlqRows: 2, dlqOpenRows: 0, recoveredRows: 1 });
});

test('rows filed under the wrong partition are found', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 2);
  await lake.ingest('north', 0, 0, 2, rows);
  await lake.append(north.silver.name, [await lake.writeFile(north.silver, rows.map(lake.rows.silverRow), { at: firstHour + 1 })], coverageOfReadings(rows));
  await lake.append(pipeline.dlqTable, [], coverageOfReadings(rows));
  await lake.append(gold.name, [await lake.writeFile(gold, rows.map(lake.rows.goldRow), { site: 'north-0', at: firstHour + 1 })], coverageOfReadings(rows));
  const report = await lake.audit();
  expect(offsetsOf(report, 'rows-in-place')).toEqual(['north.raw/0 0-2', 'north.raw/0 0-2']);
});

test('a manifest that miscounts a file or bounds it too narrowly is found', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 20);
  const file = await lake.writeFile(north.bronze, rows.map(lake.rows.bronzeRow), { ingestion_timestamp: 20_370 });
  const offsetId = north.bronze.fields.find(({ name }) => name === 'offset')!.id;
  const narrow = Buffer.alloc(8);
  narrow.writeBigInt64LE(10n);
  await lake.append(north.bronze.name, [{ ...file, recordCount: 21, upperBounds: { ...file.upperBounds, [offsetId]: narrow.toString('base64') } }], coverageOfReadings(rows));
  const report = await lake.audit();
  expect(report.findings.find(({ promise }) => promise === 'files-intact')!.detail).toContain('expected 21 rows as the manifest says, found 20');
  expect(report.findings.filter(({ promise }) => promise === 'rows-in-place').map(({ detail }) => detail)).toEqual([
    expect.stringContaining('upper bound of offset: the manifest says 10, the file 19'), expect.stringContaining('found 0 to 19'),
  ]);
});

test('files that no retained snapshot names are told past the grace period, and are no finding', async () => {
  const lake = await createHealthyLake();
  await lake.writeFile(north.silver, [lake.rows.silverRow(lake.all[0]!)], { at: firstHour });
  const file = await silverFileWith(lake, firstHour, 'north-0');
  await lake.rewrite(north.silver, file.filePath, () => true);
  const unreferenced = async (graceMs: number) => {
    const report = await lake.audit({ kafka: lake.kafka, unreferencedGraceMs: graceMs, now: () => Date.now() + 1_000 });
    expect(report.ok).toBe(true);
    return report.tables.find(({ table }) => table === north.silver.name)!.unreferenced.files;
  };
  expect(await unreferenced(60_000)).toBe(0);
  // The file that was replaced is still named by an older snapshot.
  expect(await unreferenced(0)).toBe(1);
});

test('a range restricts findings and figures to its offsets', async () => {
  const lake = await createHealthyLake();
  const again = lake.all.filter(({ source, partition, offset }) => source === 'north' && partition === 0 && (offset < 10 || offset >= 290));
  await lake.append(north.bronze.name, [await lake.writeFile(north.bronze, again.map(lake.rows.bronzeRow), { ingestion_timestamp: 20_370 })]);
  const range = coverageOfReadings(lake.all.filter(({ source, partition, offset }) => source === 'north' && partition === 0 && offset >= 5 && offset < 200));
  const report = await lake.audit({ kafka: lake.kafka, range });
  expect(offsetsOf(report, 'bronze-once')).toEqual(['north.raw/0 5-10']);
  expect(report.findingsTotal).toBe(1);
  expect(report.sources[0]!.bronzeRows).toBe(195);
  expect(report.gold[0]!.hours).toBe(2);
});

test('findings are listed up to the limit and counted beyond it', async () => {
  const lake = await createHealthyLake();
  const again = lake.all.filter(({ source, partition, offset }) => source === 'north' && partition === 0 && offset % 2 === 0);
  await lake.append(north.bronze.name, [await lake.writeFile(north.bronze, again.map(lake.rows.bronzeRow), { ingestion_timestamp: 20_370 })]);
  const report = await lake.audit({ kafka: lake.kafka, findingsMax: 20 });
  expect(report.findings).toHaveLength(20);
  expect(report.findingsTotal).toBe(150);
  expect(report.findingsByPromise['bronze-once']).toEqual({ findings: 150, offsets: '150' });
});

test('a flood of one kind does not hide another fault', async () => {
  const lake = await createHealthyLake();
  const again = lake.all.filter(({ source, partition, offset }) => source === 'north' && partition === 0 && offset % 2 === 0);
  await lake.append(north.bronze.name, [await lake.writeFile(north.bronze, again.map(lake.rows.bronzeRow), { ingestion_timestamp: 20_370 })]);
  const twice = winnersOf(lake.all)[5]!;
  await lake.append(gold.name, [await lake.writeFile(gold, [lake.rows.goldRow(twice)], { site: twice.site, at: Math.floor(twice.at / hourMicros) })]);
  const { findings } = await lake.audit({ findingsMax: 10 });
  expect(findings.map(({ promise }) => promise)).toEqual([...Array.from({ length: 9 }, () => 'bronze-once'), 'gold-once']);
});

test('an unknown source is refused', async () => {
  const lake = await createSmallLake();
  await expect(lake.audit({ sources: ['east'] })).rejects.toThrow('source: expected one of north, south, found east');
});

test('an audit that is cancelled stops', async () => {
  const lake = await createHealthyLake();
  const controller = new AbortController();
  const auditing = lake.audit({ signal: controller.signal, onProgress: ({ files }) => { if (files > 2) controller.abort(new Error('stopped')); } });
  await expect(auditing).rejects.toThrow('stopped');
});

