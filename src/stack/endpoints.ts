import { TidemarkError } from '../domain/errors.ts';

export const serverNames = ['kafka', 'temporal', 's3', 'schemaRegistry'] as const;
export type ServerName = (typeof serverNames)[number];

/** Where the four servers answer. Every address is on this machine unless the environment named another. */
export interface StackEndpoints {
  /** `host:port` of each bootstrap broker. */
  kafka: { brokers: string[] };
  /** `address` is `host:port` of the gRPC frontend; `uiUrl` is empty for an external server that names none. */
  temporal: { address: string; uiUrl: string };
  s3: { endpoint: string; region: string; accessKeyId: string; secretAccessKey: string };
  /** Base URL of the Confluent-compatible API, without a trailing slash. */
  schemaRegistry: { url: string };
}

/** The variable that makes a server external: it is then neither started nor stopped here. */
export const endpointVariables: Record<ServerName, string> = {
  kafka: 'KAFKA_BROKERS',
  temporal: 'TEMPORAL_ADDRESS',
  s3: 'S3_ENDPOINT',
  schemaRegistry: 'SCHEMA_REGISTRY_URL',
};

/**
 * The endpoints that the environment names. Throws BAD_CONFIG, with the variable's name, for a value that cannot be
 * an endpoint and for an S3 endpoint without its keys.
 */
export function externalEndpoints(env: NodeJS.ProcessEnv): Partial<StackEndpoints> {
  const external: Partial<StackEndpoints> = {};
  const brokers = env['KAFKA_BROKERS'];
  if (brokers) {
    external.kafka = { brokers: brokers.split(',').map((broker) => hostAndPort('KAFKA_BROKERS', broker.trim())) };
  }
  const address = env['TEMPORAL_ADDRESS'];
  if (address) {
    const uiUrl = env['TEMPORAL_UI_URL'];
    external.temporal = { address: hostAndPort('TEMPORAL_ADDRESS', address), uiUrl: uiUrl ? httpUrl('TEMPORAL_UI_URL', uiUrl) : '' };
  }
  const endpoint = env['S3_ENDPOINT'];
  if (endpoint) {
    external.s3 = {
      endpoint: httpUrl('S3_ENDPOINT', endpoint),
      region: env['S3_REGION'] || env['AWS_REGION'] || 'us-east-1',
      accessKeyId: required(env, 'AWS_ACCESS_KEY_ID', 'S3_ENDPOINT'),
      secretAccessKey: required(env, 'AWS_SECRET_ACCESS_KEY', 'S3_ENDPOINT'),
    };
  }
  const registry = env['SCHEMA_REGISTRY_URL'];
  if (registry) external.schemaRegistry = { url: httpUrl('SCHEMA_REGISTRY_URL', registry) };
  return external;
}

/** The same endpoints as environment variables: what a shell exports to reach a running stack. */
export function endpointEnvironment(endpoints: StackEndpoints): Record<string, string> {
  const { kafka, temporal, s3, schemaRegistry } = endpoints;
  return {
    KAFKA_BROKERS: kafka.brokers.join(','),
    TEMPORAL_ADDRESS: temporal.address,
    ...(temporal.uiUrl ? { TEMPORAL_UI_URL: temporal.uiUrl } : {}),
    S3_ENDPOINT: s3.endpoint,
    S3_REGION: s3.region,
    AWS_ACCESS_KEY_ID: s3.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
    SCHEMA_REGISTRY_URL: schemaRegistry.url,
  };
}

function hostAndPort(variable: string, value: string): string {
  const port = Number(/^[^\s/@]+:(\d{1,5})$/.exec(value)?.[1]);
  if (!(port > 0 && port < 65_536)) throw new TidemarkError('BAD_CONFIG', `${variable}: expected host:port, found ${JSON.stringify(value)}`);
  return value;
}

function httpUrl(variable: string, value: string): string {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  // The value is not repeated: a URL may carry a password.
  if (!url || !/^https?:$/.test(url.protocol)) throw new TidemarkError('BAD_CONFIG', `${variable}: expected an http or https URL`);
  return value.replace(/\/+$/, '');
}

function required(env: NodeJS.ProcessEnv, variable: string, because: string): string {
  const value = env[variable];
  if (!value) throw new TidemarkError('BAD_CONFIG', `${because} is set, so ${variable} must be set too`);
  return value;
}
