import { afterEach, expect, test } from 'vitest';
import { utcMs } from '../../src/domain/utc-time.ts';

const zone = process.env['TZ'];
afterEach(() => {
  process.env['TZ'] = zone;
});

test.each(['UTC', 'America/New_York', 'Asia/Kolkata'])('a time without a zone is UTC in %s too, and one with a zone is what it says', (name) => {
  process.env['TZ'] = name;
  const given: [string, string][] = [
    ['2026-03-01', '2026-03-01T00:00:00.000Z'], ['2026-03-01T06:00', '2026-03-01T06:00:00.000Z'], ['2026-03-01T06:00:01.5', '2026-03-01T06:00:01.500Z'],
    ['2026-03-01T06:00Z', '2026-03-01T06:00:00.000Z'], ['2026-03-01T06:00:00+05:30', '2026-03-01T00:30:00.000Z'],
  ];
  for (const [text, iso] of given) expect(new Date(utcMs(text)!).toISOString(), text).toBe(iso);
});

test('what ISO 8601 does not know is no time', () => {
  for (const text of ['', 'yesterday', 'March 7', '2026', '2026-03-01 06:00', '2026-13-01', '2026-03-01T25:00', '1772345678']) expect(utcMs(text), text).toBeUndefined();
});
