// Table properties and snapshot summary entries of ours: what one commit tells the next.

/** On Bronze: the highest epoch of a committed file. A ledger without state goes on above it. */
export const epochMaxProperty = 'tidemark.epoch-max';
/** On Silver: the highest micro-batch number that was published. */
export const batchMaxProperty = 'tidemark.batch-max';
/** In Gold's snapshot summaries: a repetition of the merge gives the same counts. */
export const goldSummary = { rows: 'tidemark.gold-rows', duplicates: 'tidemark.duplicates', batch: 'tidemark.micro-batch', source: 'tidemark.source' } as const;
