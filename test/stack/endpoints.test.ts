import { expect, test } from 'vitest';
import { endpointEnvironment, externalEndpoints } from '../../src/stack/index.ts';
import type { StackEndpoints } from '../../src/stack/index.ts';

const endpoints: StackEndpoints = {
  kafka: { brokers: ['broker-1:9092', 'broker-2:9092'] },
  temporal: { address: 'temporal:7233', uiUrl: 'http://temporal:8233' },
  s3: { endpoint: 'https://s3.example:9000', region: 'eu-west-1', accessKeyId: 'key', secretAccessKey: 'secret/+=' },
  schemaRegistry: { url: 'http://registry:8081/apis/ccompat/v7' },
};

test('an empty environment names no server', () => {
  expect(externalEndpoints({})).toEqual({});
  expect(externalEndpoints({ KAFKA_BROKERS: '', S3_ENDPOINT: '' })).toEqual({});
});

test('what a stack exports makes another process find the same endpoints', () => {
  expect(externalEndpoints(endpointEnvironment(endpoints))).toEqual(endpoints);
});

test('brokers may be separated by a comma and spaces, and a URL may end with a slash', () => {
  expect(externalEndpoints({ KAFKA_BROKERS: 'a:1, b:2', SCHEMA_REGISTRY_URL: 'http://r:1/' })).toEqual({
    kafka: { brokers: ['a:1', 'b:2'] },
    schemaRegistry: { url: 'http://r:1' },
  });
});

test.each([
  [{ KAFKA_BROKERS: 'broker' }, 'KAFKA_BROKERS: expected host:port, found "broker"'],
  [{ KAFKA_BROKERS: 'a:1,,b:2' }, 'KAFKA_BROKERS: expected host:port, found ""'],
  [{ TEMPORAL_ADDRESS: 'http://temporal:7233' }, 'TEMPORAL_ADDRESS: expected host:port'],
  [{ TEMPORAL_ADDRESS: 'temporal:70000' }, 'TEMPORAL_ADDRESS: expected host:port'],
  [{ SCHEMA_REGISTRY_URL: 'registry:8081' }, 'SCHEMA_REGISTRY_URL: expected an http or https URL'],
  [{ S3_ENDPOINT: 'http://s3:9000' }, 'S3_ENDPOINT is set, so AWS_ACCESS_KEY_ID must be set too'],
  [{ S3_ENDPOINT: 'http://s3:9000', AWS_ACCESS_KEY_ID: 'key' }, 'AWS_SECRET_ACCESS_KEY must be set too'],
])('a variable that cannot be an endpoint is refused by name: %j', (env, message) => {
  expect(() => externalEndpoints(env)).toThrow(expect.objectContaining({ code: 'BAD_CONFIG', message: expect.stringContaining(message) }) as Error);
});

test('a refused URL is not repeated in the message, because it may carry a password', () => {
  expect(() => externalEndpoints({ S3_ENDPOINT: 'ftp://user:hunter2@s3' })).toThrow(/^(?!.*hunter2)/);
});
