import { expect, test } from 'vitest';
import { memoryChart } from '../../bench/memory-chart.ts';

const MiB = 1 << 20;
const samples = (of: (i: number) => number) => Array.from({ length: 40 }, (_, i) => [i * 500, of(i)] as const);

test('each process has its line on one scale, with its peak and its growth', () => {
  const chart = memoryChart([
    { name: 'flat', samples: samples(() => 100 * MiB), peakBytes: 120 * MiB }, { name: 'growing', samples: samples((i) => (i + 1) * 5 * MiB), peakBytes: 200 * MiB },
  ], 8).split('\n');
  expect(chart).toEqual([
    'resident set over 20 s, █ is 200 MB',
    'flat     ▅▅▅▅▅▅▅▅  peak 120 MB, last quarter +0 MB on the second',
    'growing  ▂▃▄▅▆▇██  peak 200 MB, last quarter +100 MB on the second',
  ]);
});

test('a process that ended early leaves its columns empty, and one without samples has a line', () => {
  const chart = memoryChart([{ name: 'a', samples: [[0, MiB], [900, MiB]], peakBytes: MiB }, { name: 'b', samples: [[0, MiB]], peakBytes: MiB }, { name: 'c', samples: [], peakBytes: 0 }], 2).split('\n').slice(1);
  expect(chart).toEqual(['a  ██  peak 1 MB', 'b  █   peak 1 MB', 'c      peak 0 MB']);
});
