import { h, svgLink } from './elements.js';

/** @typedef {import('../snapshot.ts').BatchView} BatchView */

const width = 300;
const height = 48;

/**
 * A curve over time; gaps where nothing is known. Its words say the same to who cannot see it.
 * @param {string} label
 * @param {{ atMs: number, value: number | null }[]} points
 * @param {(value: number) => string} text
 * @param {{ atMs: number, value: number | null }[]} [second]
 */
export const sparkline = (label, points, text, second = []) => {
  const known = points.filter(({ value }) => value !== null);
  const last = known.at(-1)?.value ?? null;
  const highest = Math.max(0, ...known.map(({ value }) => value ?? 0));
  const start = points[0]?.atMs ?? 0;
  const span = Math.max(1, (points.at(-1)?.atMs ?? 1) - start);
  const x = (/** @type {number} */ atMs) => (((atMs - start) / span) * width).toFixed(1);
  const y = (/** @type {number} */ value) => (height - 2 - (highest === 0 ? 0 : (value / highest) * (height - 6))).toFixed(1);
  /** @param {{ atMs: number, value: number | null }[]} of */
  const runsOf = (of) => {
    /** @type {{ atMs: number, value: number }[][]} */
    const runs = [];
    let open = false;
    for (const { atMs, value } of of) {
      if (value === null) open = false;
      else if (open) runs.at(-1)?.push({ atMs, value });
      else {
        runs.push([{ atMs, value }]);
        open = true;
      }
    }
    return runs;
  };
  /** @param {{ atMs: number, value: number }[]} run */
  const line = (run) => run.map(({ atMs, value }, i) => `${i === 0 ? 'M' : 'L'}${x(atMs)} ${y(value)}`).join('') + (run.length === 1 ? 'h2' : '');
  /** @param {{ atMs: number, value: number }[]} run */
  const area = (run) => `${line(run)}V${height - 2}H${x(run[0]?.atMs ?? 0)}Z`;
  const words = last === null ? `${label}: nothing yet` : `${label}: now ${text(last)}, at most ${text(highest)}`;
  return h('figure', null,
    h('figcaption', null, h('span', null, label), h('span', null, last === null ? 'nothing yet' : `now ${text(last)}, at most ${text(highest)}`)),
    h('svg.spark', { 'viewBox': `0 0 ${width} ${height}`, 'preserveAspectRatio': 'none', 'role': 'img', 'aria-label': words },
      h('line.base', { x1: 0, x2: width, y1: height - 1.5, y2: height - 1.5 }),
      runsOf(points).map((run) => [h('path.area', { d: area(run) }), h('path.line', { d: line(run) })]),
      runsOf(second).map((run) => h('path.line.second', { d: line(run) }))));
};

/**
 * A bar of parts; widths are shares of `whole`.
 * @param {number} whole
 * @param {{ value: number, fill: string }[]} parts
 */
export const bar = (whole, parts) => {
  let at = 0;
  return h('div.track', { 'aria-hidden': 'true' }, h('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none' }, parts.map(({ value, fill }) => {
    // What is there at all can be seen.
    const share = whole === 0 || value === 0 ? 0 : Math.max(0.6, (value / whole) * 100);
    const rect = h('rect', { x: at.toFixed(2), y: 0, width: Math.min(share, 100 - at).toFixed(2), height: 10, class: `fill-${fill}` });
    at = Math.min(100, at + share);
    return rect;
  })));
};

const labelWidth = 118;
const laneHeight = 11;

/**
 * Micro-batches over time: a lane for each source, and more where they overlap.
 * @param {readonly BatchView[]} batches
 * @param {readonly string[]} sources
 * @param {number} nowMs
 * @param {number} pixels how wide it is drawn
 * @param {(batch: BatchView) => string} words
 */
export const timeline = (batches, sources, nowMs, pixels, words) => {
  const oldest = Math.min(nowMs - 60_000, ...batches.map(({ startedAtMs }) => startedAtMs));
  const plot = pixels - labelWidth - 4;
  const x = (/** @type {number} */ atMs) => labelWidth + ((Math.min(atMs, nowMs) - oldest) / (nowMs - oldest)) * plot;
  let top = 4;
  /** @type {Element[]} */
  const drawn = [];
  for (const source of sources) {
    /** @type {number[]} */
    const laneEnds = [];
    const own = batches.filter((batch) => batch.source === source).toSorted((a, b) => a.startedAtMs - b.startedAtMs);
    drawn.push(h('text', { x: 0, y: top + 9 }, source.length > 18 ? `${source.slice(0, 17)}…` : source));
    for (const batch of own) {
      const from = x(batch.startedAtMs);
      const to = Math.max(from + 3, x(batch.durationMs === null ? nowMs : batch.startedAtMs + batch.durationMs));
      let lane = laneEnds.findIndex((end) => end <= from);
      if (lane < 0) lane = laneEnds.push(0) - 1;
      laneEnds[lane] = to + 1;
      const rect = h('rect', {
        'class': `bar ${batch.state}`, 'x': from.toFixed(1), 'y': top + lane * laneHeight, 'width': (to - from).toFixed(1), 'height': laneHeight - 2,
      }, h('title', null, words(batch)));
      drawn.push(batch.url === null ? rect : svgLink({ 'href': batch.url, 'data-key': `${source}/${batch.batch}`, 'aria-label': words(batch), 'target': '_blank', 'rel': 'noreferrer' }, rect));
    }
    top += Math.max(1, laneEnds.length) * laneHeight + 8;
  }
  const ticks = plot < 400 ? 2 : 4;
  const grid = Array.from({ length: ticks + 1 }, (_, i) => {
    const atMs = oldest + ((nowMs - oldest) * i) / ticks;
    const at = x(atMs);
    return [
      h('line.grid', { x1: at.toFixed(1), x2: at.toFixed(1), y1: 0, y2: top }),
      h('text', { 'x': at.toFixed(1), 'y': top + 12, 'text-anchor': i === ticks ? 'end' : i === 0 ? 'start' : 'middle' }, i === ticks ? 'now' : `−${Math.round((nowMs - atMs) / 1_000)} s`),
    ];
  });
  return h('svg.timeline', { viewBox: `0 0 ${pixels} ${top + 16}`, height: top + 16, role: 'group', 'aria-label': 'Micro-batches over time' }, grid, drawn);
};
