import { expect, test } from 'vitest';
import { configToEnvironment, environmentHelp, loadConfig } from '../../src/config/config.ts';

const credentials = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'swordfish' };

test('a bad configuration stops with every problem listed, expected and found, and never the secret', () => {
  const load = () => loadConfig({ AWS_SECRET_ACCESS_KEY: 'swordfish', KAFKA_BROKERS: 'nowhere', FLUSH_ROWS: '-3', GAP_POLICY: 'maybe', TIDEMARK_BUCKET: 'X' });
  expect(load).toThrow(/5 problems/);
  for (const name of ['AWS_ACCESS_KEY_ID', 'KAFKA_BROKERS', 'FLUSH_ROWS', 'GAP_POLICY', 'TIDEMARK_BUCKET']) expect(load).toThrow(name);
  expect(load).toThrow('found "nowhere"');
  expect(load).not.toThrow('swordfish');
});

test('related limits are checked together', () => {
  expect(() => loadConfig({ ...credentials, FLUSH_BYTES: String(64 * 1024 * 1024), BUFFER_BUDGET_BYTES: String(32 * 1024 * 1024) }))
    .toThrow(/FLUSH_BYTES: expected at most BUFFER_BUDGET_BYTES/);
});

test('the config is frozen, an empty variable counts as unset, and another process sees the same config', () => {
  const config = loadConfig({ ...credentials, LOG_LEVEL: '', KAFKA_BROKERS: 'a:1, b:2' });
  expect(config.kafka.brokers).toEqual(['a:1', 'b:2']);
  expect(config.logLevel).toBe('info');
  expect(Object.isFrozen(config.streaming)).toBe(true);
  expect(loadConfig(configToEnvironment(config))).toEqual(config);
  expect(environmentHelp()).toContain('FLUSH_INTERVAL_MS');
});
