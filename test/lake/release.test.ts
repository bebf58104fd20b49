import { expect, test } from 'vitest';
import { release, releaseBuffer, releaseColumn } from '../../src/lake/release.ts';

const large = 1 << 20;

test('memory that a view has for itself is given back at once', () => {
  const views = Array.from({ length: 64 }, () => new Uint8Array(large).fill(1));
  // Not compared with what was held before: a garbage collection in between may have freed what others left.
  const held = process.memoryUsage().arrayBuffers;
  expect(held).toBeGreaterThanOrEqual(64 * large);
  for (const view of views) release(view);
  expect(held - process.memoryUsage().arrayBuffers).toBeGreaterThanOrEqual(64 * large);
  expect(views.every(({ length }) => length === 0)).toBe(true);
});

test('a view of a buffer that holds other things too is left alone, and so is the pool of small buffers', () => {
  const file = new Uint8Array(large).fill(7);
  release(file.subarray(0, large / 2));
  releaseColumn({ packed: file.subarray(100), positions: new Uint32Array(3) });
  expect(file.every((byte) => byte === 7)).toBe(true);
  const pooled = Buffer.from('a piece of the pool');
  release(pooled);
  releaseBuffer(pooled.buffer);
  expect(pooled.toString()).toBe('a piece of the pool');
});

test('giving back twice does nothing', () => {
  const view = new BigInt64Array(large / 8);
  release(view);
  release(view);
  releaseBuffer(view.buffer);
  expect(view.length).toBe(0);
});
