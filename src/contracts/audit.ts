// The audit's report: what the script prints, the workflow returns (shortened) and `audit_findings` keeps. Plain JSON;
// offsets are decimal text.

/** What is checked, by the name that findings carry in the column `promise`. */
export const auditPromises = {
  'bronze-complete': 'Every offset of [first, next) is in Bronze, sparse at the broker, or in a recorded gap',
  'bronze-once': 'No offset is in Bronze twice, and none that a gap says is lost',
  'bronze-covered': 'Bronze files and the offsets that the table says it covers agree',
  'source-has-rows': 'A source whose topic has records has rows',
  'refined-once': 'Every refined Bronze row is in Silver, open in the DLQ, or resolved: never two of them, never none',
  'refined-from-bronze': 'Every row of Silver and the DLQ is a row of Bronze, once, at covered offsets',
  'gold-from-silver': 'Every Gold row is the Silver row that its lineage names, with the same key',
  'gold-once': 'A key is in Gold once',
  'gold-complete': 'Every merged Silver row is in Gold by its key',
  'gold-least-wins': 'Of Silver rows with one key Gold holds the least (topic, partition, offset)',
  'files-intact': 'Every file that a table names exists, with the size, rows and content that were written',
  'rows-in-place': 'Rows lie inside the partition values and bounds that their manifest entry states',
} as const;
export type AuditPromise = keyof typeof auditPromises;

export interface AuditFinding {
  promise: AuditPromise;
  /** The table or topic. */
  subject: string;
  topic: string | null;
  partition: number | null;
  /** Half-open; null where the finding has no offsets. */
  startOffset: string | null;
  endOffset: string | null;
  /** What was expected and found. */
  detail: string;
}

export interface AuditedTable {
  table: string;
  /** Metadata version that was read; null if there is no such table. */
  version: number | null;
  snapshotId: string | null;
  files: number;
  /** Rows as the manifests count them. */
  rows: number;
  bytes: number;
  /** Files whose every byte was compared with a checksum; the others were only decoded. */
  checksummedFiles: number;
  /** On S3 under the table's data folder, named by no retained snapshot, and older than the grace period: information, no finding. */
  unreferenced: { files: number; bytes: number; examples: string[] };
}

export interface AuditedSource extends SourceFigures {
  topicPartitions: AuditedTopicPartition[];
}

export interface SourceFigures {
  source: string;
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  /** DLQ rows without a resolution that closes them. */
  dlqOpenRows: number;
  recoveredRows: number;
  /** Offsets inside Bronze files that hold no row: transaction markers, compaction. */
  sparseOffsets: string;
  gapOffsets: string;
  /** Bronze offsets that retention took; the archive's manifests account for them. */
  takenOffsets: string;
  /** Bronze rows that wait for refining. */
  unrefinedRows: number;
  /** Kafka's records past the lake's next offset; null without a broker. */
  kafkaLag: string | null;
}

export interface AuditedTopicPartition {
  topic: string;
  partition: number;
  /** Where the lake's record of this topic partition begins and goes on; null if it has none. */
  firstOffset: string | null;
  nextOffset: string | null;
  logStart: string | null;
  logEnd: string | null;
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  unrefinedRows: number;
}

export interface AuditedGold {
  table: string;
  rows: number;
  /** Silver rows that were merged. */
  silverRows: number;
  distinctKeys: number;
  /** silverRows - distinctKeys. */
  duplicates: number;
  /** Silver rows that wait for the merge. */
  unmergedRows: number;
  /** Event hours that were compared, and how many passes over their rows the memory budget asked for. */
  hours: number;
  passes: number;
}

export interface AuditReport {
  auditId: string;
  ok: boolean;
  startedAtMs: number;
  durationMs: number;
  sources: AuditedSource[];
  gold: AuditedGold[];
  tables: AuditedTable[];
  /** At most `findingsMax` of the request. */
  findings: AuditFinding[];
  findingsTotal: number;
  findingsByPromise: Partial<Record<AuditPromise, { findings: number; offsets: string }>>;
  durationsMs: Record<string, number>;
}

export const auditWorkflowType = 'auditWorkflow';
export const auditWorkflowId = 'audit';

export interface AuditInput {
  /** Default: all. */
  sources?: string[];
  /** Offset intervals by topic partition; default: everything. */
  range?: Record<string, string>;
  /** Decode the key columns only, and compare no checksum. */
  keysOnly?: boolean;
}

/** The report within a payload's limit: counts, and the first findings. All of them are in `audit_findings`. */
export interface AuditSummary {
  auditId: string;
  ok: boolean;
  durationMs: number;
  sources: SourceFigures[];
  gold: AuditedGold[];
  findingsTotal: number;
  findingsByPromise: AuditReport['findingsByPromise'];
  findings: AuditFinding[];
}

export interface AuditActivities {
  auditConservation(input: AuditInput): Promise<AuditSummary>;
}

/** Findings that a summary shows: each has a detail of a few hundred bytes, and a payload stays under 64 KiB. */
const summaryFindingsMax = 40;
const summaryDetailMax = 500;
const summarySourcesMax = 50;

/**
 * At most `max` findings, of each promise and subject in turn and in their order, so that a flood of one kind does not hide
 * another fault.
 */
export const spreadFindings = (findings: readonly AuditFinding[], max: number): AuditFinding[] => {
  if (findings.length <= max) return [...findings];
  const groups = new Map<string, number[]>();
  for (const [at, { promise, subject }] of findings.entries()) {
    const id = `${promise} ${subject}`;
    const group = groups.get(id);
    if (group) group.push(at);
    else groups.set(id, [at]);
  }
  const chosen: number[] = [];
  for (let round = 0; chosen.length < max; round += 1) {
    for (const group of groups.values()) if (round < group.length && chosen.length < max) chosen.push(group[round]!);
  }
  return chosen.sort((a, b) => a - b).map((at) => findings[at]!);
};

export const summaryOf = ({ auditId, ok, durationMs, sources, gold, findingsTotal, findingsByPromise, findings }: AuditReport): AuditSummary => ({
  auditId, ok, durationMs, gold, findingsTotal, findingsByPromise,
  sources: sources.slice(0, summarySourcesMax).map(({ source, bronzeRows, silverRows, dlqRows, dlqOpenRows, recoveredRows, sparseOffsets, gapOffsets, takenOffsets, unrefinedRows, kafkaLag }) => ({
    source, bronzeRows, silverRows, dlqRows, dlqOpenRows, recoveredRows, sparseOffsets, gapOffsets, takenOffsets, unrefinedRows, kafkaLag,
  })),
  findings: spreadFindings(findings, summaryFindingsMax).map((finding) => ({ ...finding, detail: finding.detail.slice(0, summaryDetailMax) })),
});
