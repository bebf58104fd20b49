import { bar, sparkline, timeline } from './charts.js';
import { h, patch } from './elements.js';

/** @typedef {import('../snapshot.ts').PageSnapshot} PageSnapshot */
/** @typedef {import('../snapshot.ts').PageHistory} PageHistory */
/** @typedef {import('../snapshot.ts').SourceView} SourceView */
/** @typedef {import('../snapshot.ts').BatchView} BatchView */

/** @type {PageSnapshot | null} */
let snapshot = null;
/** @type {PageHistory} */
let history = { stepMs: 10_000, points: {} };
let lastFrameMs = 0;
let isBroken = false;
/** Of the server that was heard first. @type {string | null} */
let release = null;
/** What the last command came to; said where it was given. @type {Map<string, string>} */
const answers = new Map();

const main = /** @type {HTMLElement} */ (document.getElementById('main'));
const connection = /** @type {HTMLElement} */ (document.getElementById('connection'));
const tokenKey = 'tidemark-token';
const staleMs = 15_000;
const retryMs = 2_000;
const reasonsShown = 12;

const count = (/** @type {number} */ value) => Math.round(value).toLocaleString('en');
const brief = (/** @type {number} */ value) => (value < 10_000 ? count(value) : value < 1e6 ? `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)} k` : `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)} M`);
const duration = (/** @type {number | null} */ ms) => (ms === null ? '–' : ms < 1_000 ? `${Math.round(ms)} ms` : ms < 60_000 ? `${(ms / 1_000).toFixed(1)} s` : ms < 3_600_000 ? `${Math.floor(Math.round(ms / 1_000) / 60)} min ${Math.round(ms / 1_000) % 60} s` : `${(ms / 3_600_000).toFixed(1)} h`);
const megabytes = (/** @type {number} */ bytes) => `${(bytes / 1024 / 1024).toFixed(0)} MB`;
const clock = (/** @type {number} */ ms) => new Date(ms).toLocaleTimeString('en-GB');
const date = (/** @type {number} */ ms) => new Date(ms).toLocaleString('en-GB');
const percent = (/** @type {number} */ share) => `${share === 0 || share >= 0.001 ? (share * 100).toFixed(1) : '< 0.1'} %`;

/** @param {string | null} href @param {...import('./elements.js').Child} children */
const link = (href, ...children) => (href === null ? children : h('a', { href, target: '_blank', rel: 'noreferrer' }, ...children));

/** @param {string} caption @param {string[]} head @param {import('./elements.js').Child[][]} rows @param {number[]} numbers columns that hold numbers */
const table = (caption, head, rows, numbers = []) => h('div.scroll', { tabindex: 0, role: 'region', 'aria-label': caption }, h('table', null, h('caption', null, caption),
  h('thead', null, h('tr', null, head.map((title, i) => h(numbers.includes(i) ? 'th.number' : 'th', { scope: 'col' }, title)))),
  h('tbody', null, rows.map((row) => h('tr', null, row.map((cell, i) => h(numbers.includes(i) ? 'td.number' : 'td', null, cell)))))));

/** @param {string} id @param {string} size @param {import('./elements.js').Child[]} title @param {...import('./elements.js').Child} children */
const section = (id, size, title, ...children) => h(`section${size}`, { 'id': id, 'data-key': id, 'aria-labelledby': `${id}-title` }, h('h2', { id: `${id}-title` }, title), ...children);

/** @param {PageSnapshot} page */
const attention = ({ attention: list }) => section('attention', '.attention', [list.length === 0 ? 'All is well' : `${list.length} to look at`],
  list.length === 0
    ? h('p.well', null, 'Streams run, nothing is halted, nothing waits for a decision.')
    : h('ul', null, list.map(({ level, text, command, url }) => h(`li.${level}`, null,
      h('span', null, h('strong', null, level === 'critical' ? 'Now: ' : 'Soon: '), text), command === null ? null : h('code', null, command), url === null ? null : link(url, 'Web UI')))));

const phases = { running: 'good', paused: 'warn', rebuilding: 'warn' };

/** @param {SourceView} source */
const controls = ({ source, phase }) => {
  if (!snapshot?.hasControls || phase === null) return null;
  const action = phase === 'paused' ? 'resume' : 'pause';
  const answer = answers.get(source);
  return h('form', { 'data-source': source, 'data-action': action, 'data-key': 'controls' },
    sessionStorage.getItem(tokenKey) === null ? h('input', { 'type': 'password', 'name': 'token', 'placeholder': 'token', 'aria-label': `Token to ${action} ${source}`, 'autocomplete': 'off' }) : null,
    h('button', { type: 'submit' }, action === 'pause' ? 'Pause' : 'Resume', h('span.hidden', null, ` ${source}`)),
    h('span.muted', { role: 'status' }, answer ?? ''));
};

/** @param {SourceView} source @param {PageSnapshot} page */
const stream = (source, { sources }) => {
  const points = history.points[source.source] ?? [];
  const { rows } = source;
  const refined = rows.silver + rows.dlq;
  const widest = Math.max(1, rows.bronze);
  return section(`stream-${source.source}`, sources.length > 1 ? '.half' : '', [
    source.source,
    h(`span.badge.${source.phase === null ? 'bad' : phases[source.phase]}`, null, source.phase ?? 'no answer'),
    controls(source),
    source.url === null ? null : h('span.end', null, link(source.url, 'Workflow')),
  ],
  h('dl.figures', null,
    h('div', null, h('dt', null, 'behind the broker'), h('dd', null, source.lagRecords === null ? '–' : count(source.lagRecords))),
    h('div', null, h('dt', null, 'Kafka to Gold, p50'), h('dd', null, duration(source.freshnessMs.p50))),
    h('div', null, h('dt', null, 'p99'), h('dd', null, duration(source.freshnessMs.p99))),
    h('div', null, h('dt', null, 'refined a second'), h('dd', null, brief(source.rowsPerSecond))),
    h('div', null, h('dt', null, 'waiting'), h('dd', null, brief(source.openRecords))),
  ),
  h('div.curves', null,
    sparkline('Lag', points.map(({ atMs, lagRecords }) => ({ atMs, value: lagRecords })), brief),
    sparkline('Freshness p99, p50', points.map(({ atMs, freshnessP99Ms }) => ({ atMs, value: freshnessP99Ms })), duration, points.map(({ atMs, freshnessP50Ms }) => ({ atMs, value: freshnessP50Ms }))),
    sparkline('Records/s', points.map(({ atMs, rowsPerSecond }) => ({ atMs, value: rowsPerSecond })), brief),
  ),
  h('h3', null, 'Rows by layer'),
  h('ul.ladder', null,
    h('li', null, h('b', null, 'Bronze'), bar(widest, [{ value: rows.bronze, fill: 'bronze' }]), h('span.number', null, count(rows.bronze))),
    h('li', null, h('b', null, 'Silver'), bar(widest, [{ value: rows.silver, fill: 'silver' }]), h('span.number', null, count(rows.silver))),
    h('li', null, h('b', null, 'DLQ'), bar(widest, [{ value: rows.dlq, fill: 'bad' }]), h('span.number', null, `${count(rows.dlq)} (${percent(refined === 0 ? 0 : rows.dlq / refined)})`)),
  ),
  h('p.muted', null, `${count(source.duplicates)} duplicates removed on the way to Gold. ${source.batchLimit === null ? '' : `The next micro-batch holds at most ${count(source.batchLimit.recordsMax)} records: ${source.batchLimit.reason}.`}`),
  source.gaps.length === 0 ? null : table('Gaps: gone from the broker before they were read', ['topic partition', 'offsets', 'found'],
    source.gaps.map((gap) => [gap.topicPartition, `[${gap.startOffset}, ${gap.endOffset})`, date(gap.detectedAtMs)])),
  h('details', { 'data-key': 'partitions' }, h('summary', null, `${count(source.topicPartitionsTotal)} topic partitions`),
    table(`Topic partitions of ${source.source}`, ['topic partition', 'next offset', 'lag', 'pending files', 'owner'], source.topicPartitions.map((one) => [
      one.halted === null ? one.name : [one.name, h('span.badge.bad', null, 'halted')], one.nextOffset === null ? '–' : BigInt(one.nextOffset).toLocaleString('en'), one.lagRecords === null ? '–' : count(one.lagRecords), count(one.pendingFiles), one.owner ?? '–',
    ]), [1, 2, 3])),
  );
};

/** @param {PageSnapshot} page */
const gold = ({ gold: tables, sources }) => {
  const duplicates = sources.reduce((sum, source) => sum + source.duplicates, 0);
  const silver = sources.reduce((sum, { rows }) => sum + rows.silver, 0);
  return section('gold', '.third', ['Gold'], h('ul.ladder', null, tables.map(({ table: name, rows }) => h('li', { 'data-key': name }, h('b', null, 'Gold'), bar(Math.max(1, silver), [{ value: rows, fill: 'gold' }]), h('span.number', null, count(rows))))),
    h('p.muted', null, `${tables.map(({ table: name }) => name).join(', ')}: every key once, from ${count(silver)} Silver rows, ${count(duplicates)} duplicates removed since the ledgers began.`));
};

/** @param {BatchView} batch */
const batchWords = ({ source, batch, state, records, silverRows, dlqRows, goldRows, duplicates, durationMs, cause }) => `${source} micro-batch ${batch}, ${state}: ${count(records)} records${state === 'done' ? ` in ${duration(durationMs)}, ${count(silverRows)} to Silver, ${count(dlqRows)} to the DLQ, ${count(goldRows)} to Gold, ${count(duplicates)} duplicates` : ''}${cause === null ? '' : `: ${cause}`}`;

/** @param {PageSnapshot} page */
const microBatches = ({ batches, sources, atMs }) => section('batches', '', ['Micro-batches'],
  batches.length === 0 ? h('p.empty', null, 'None since this page began to watch.') : [
    timeline(batches, sources.map(({ source }) => source), atMs, Math.max(320, main.clientWidth - 80), batchWords),
    h('p.legend', { 'aria-hidden': 'true' }, h('span', null, h('i.done'), 'done'), h('span', null, h('i.running'), 'running'), h('span', null, h('i.failed'), 'failed')),
    h('details', { 'data-key': 'table' }, h('summary', null, `The last ${batches.length} as a table`), table('The last micro-batches', ['micro-batch', 'state', 'started', 'took', 'Bronze', 'Silver', 'DLQ', 'Gold', 'duplicates'], batches.map((one) => [
      link(one.url, `${one.source} ${one.batch}`), one.state, clock(one.startedAtMs), duration(one.durationMs), count(one.records), count(one.silverRows), count(one.dlqRows), count(one.goldRows), count(one.duplicates),
    ]), [3, 4, 5, 6, 7, 8])),
  ]);

/** @param {PageSnapshot} page */
const deadLetters = ({ dlq: { reasons, unread } }) => section('dlq', '.third', ['DLQ by reason'],
  reasons.length === 0 ? h('p.empty', null, 'Empty.') : h('ul.bars', null, reasons.slice(0, reasonsShown).map(({ source, errorType, reason, rows }) => h('li', { 'data-key': `${source}/${errorType}/${reason}` },
    h('span', null, h('code', null, reason), ' ', h('span.muted', null, source)), h('span.number', null, count(rows)), bar(reasons[0]?.rows ?? 1, [{ value: rows, fill: 'bad' }])))),
  reasons.length > reasonsShown ? h('p.muted', null, `${reasons.length - reasonsShown} more reasons: npm run status`) : null,
  unread === 0 ? null : h('p.muted', null, `${count(unread)} older rows are still being counted.`));

/** @param {PageSnapshot} page */
const reprocesses = ({ reprocesses: list, atMs }) => section('reprocesses', '.third', ['Backfills and DLQ replays'],
  list.length === 0 ? h('p.empty', null, 'None runs.') : h('ul.bars', null, list.map((one) => h('li', { 'data-key': one.workflowId },
    h('span', null, link(one.url, one.workflowId), ' ', one.isPaused ? h('span.badge.warn', null, 'paused') : null),
    h('span.number', null, one.rowsTotal === 0 ? one.phase : `${percent(one.rowsDone / one.rowsTotal)}`),
    h('div', { 'role': 'progressbar', 'aria-label': `${one.workflowId}`, 'aria-valuemin': 0, 'aria-valuemax': one.rowsTotal, 'aria-valuenow': one.rowsDone, 'class': 'track' },
      h('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none' }, h('rect', { class: 'fill-accent', height: 10, width: one.rowsTotal === 0 ? 0 : ((one.rowsDone / one.rowsTotal) * 100).toFixed(1) }))),
    h('span.muted', null, `${one.kind}${one.source === null ? '' : ` of ${one.source}`}, ${one.phase}: ${count(one.rowsDone)} of ${count(one.rowsTotal)} rows, ${duration(atMs - one.startedAtMs)}`)))));

/** @param {PageSnapshot} page */
const processes = ({ processes: list }) => section('memory', '.third', ['Memory'],
  h('ul.bars', null, list.map(({ name, rssBytes, bufferBytes, bufferBudgetBytes, problem }) => h('li', { 'data-key': name },
    h('span', null, name), h('span.number', null, problem !== null ? 'no answer' : rssBytes === null ? '–' : megabytes(rssBytes)),
    bufferBytes === null || bufferBudgetBytes === null ? null : [
      bar(bufferBudgetBytes, [{ value: bufferBytes, fill: bufferBytes > 0.8 * bufferBudgetBytes ? 'warn' : 'accent' }]),
      h('span.muted', null, `buffers ${megabytes(bufferBytes)} of ${megabytes(bufferBudgetBytes)}`),
    ]))));

/** @param {PageSnapshot} page */
const audit = ({ audit: last }) => section('audit', '.third', ['Last audit', last?.url ? h('span.end', null, link(last.url, 'Workflow')) : null],
  last === null ? h('p.empty', null, 'Not audited yet: ', h('code', null, 'npm run audit')) : [
    h('p', null, h(`span.badge.${{ clean: 'good', running: 'warn', findings: 'bad', failed: 'bad' }[last.state]}`, null, { clean: 'every promise holds', running: 'running', findings: `${count(last.findings)} findings`, failed: 'failed' }[last.state]), ` ${date(last.atMs)}`),
    last.promises.length === 0 ? null : h('p', null, `Broken: ${last.promises.join(', ')}`),
  ]);

const draw = () => {
  if (!snapshot) return;
  const page = snapshot;
  const next = h('main', { id: 'main' }, attention(page), page.sources.map((source) => stream(source, page)), microBatches(page), gold(page), deadLetters(page), reprocesses(page), processes(page), audit(page));
  patch(main, next);
  /** @type {HTMLElement} */ (document.getElementById('namespace')).textContent = page.namespace;
  const links = /** @type {HTMLElement} */ (document.getElementById('links'));
  patch(links, h('nav', { 'id': 'links', 'aria-label': 'Elsewhere' }, page.webUiUrl === null ? null : h('a', { href: page.webUiUrl, target: '_blank', rel: 'noreferrer' }, 'Temporal Web UI'), h('a', { href: '/metrics' }, 'Metrics')));
};

/** Also seen while the page lies behind others. @param {PageSnapshot} page */
const showTitle = (page) => {
  const critical = page.attention.filter(({ level }) => level === 'critical').length;
  document.title = page.attention.length === 0 ? 'Tidemark' : `(${page.attention.length}${critical > 0 ? '!' : ''}) Tidemark`;
};

let isDrawing = false;
/** However many frames came meanwhile, one drawing shows the last; a hidden page draws none. */
const requestDraw = () => {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    draw();
  });
};

const showConnection = () => {
  const isLive = !isBroken && Date.now() - lastFrameMs < staleMs;
  connection.dataset['state'] = isLive ? 'live' : 'lost';
  const text = isLive ? `Live, ${clock(snapshot?.atMs ?? Date.now())}` : lastFrameMs === 0 ? 'Connecting …' : `Connection lost, last heard of at ${clock(lastFrameMs)}; trying again`;
  if (connection.textContent !== text) connection.textContent = text;
  main.classList.toggle('stale', !isLive && lastFrameMs > 0);
  if (!isLive && lastFrameMs > 0) document.title = 'No connection: Tidemark';
};

document.addEventListener('submit', async (event) => {
  const form = event.target;
  if (!(form instanceof HTMLFormElement)) return;
  event.preventDefault();
  const { source = '', action = '' } = form.dataset;
  const token = sessionStorage.getItem(tokenKey) ?? String(new FormData(form).get('token') ?? '');
  answers.set(source, '…');
  requestDraw();
  try {
    const response = await fetch(`/api/streams/${encodeURIComponent(source)}/${action}`, { method: 'POST', headers: { authorization: `Bearer ${token}` } });
    if (response.ok) sessionStorage.setItem(tokenKey, token);
    else if (response.status === 403) sessionStorage.removeItem(tokenKey);
    answers.set(source, response.ok ? '' : (await response.text()).trim());
  } catch {
    answers.set(source, 'The page\'s server does not answer.');
  }
  requestDraw();
});

const listen = () => {
  const events = new EventSource('/events');
  events.addEventListener('page', ({ data }) => {
    // Another release serves: what runs here may not know what it sends.
    if (release !== null && release !== data) location.reload();
    release = data;
  });
  events.addEventListener('snapshot', ({ data }) => {
    snapshot = JSON.parse(data);
    lastFrameMs = Date.now();
    isBroken = false;
    if (snapshot) showTitle(snapshot);
    requestDraw();
    showConnection();
  });
  events.addEventListener('history', ({ data }) => {
    history = JSON.parse(data);
    requestDraw();
  });
  events.addEventListener('error', () => {
    isBroken = true;
    showConnection();
    // A browser tries again by itself, unless something answered in the server's place: a proxy, say, while it restarts.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, retryMs);
  });
};
listen();
setInterval(showConnection, 1_000);
window.addEventListener('resize', requestDraw);
