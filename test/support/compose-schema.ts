/**
 * The part of the Compose Specification that this project's file may use, as a JSON schema. A key that is not here is
 * refused, so that a typing error is found: add the key, as the specification has it, when the file needs it.
 */
const texts = { type: 'array', items: { type: 'string' } };
const scalar = { type: ['string', 'number', 'boolean', 'null'] };
const duration = { type: 'string', pattern: '^(\\d+(\\.\\d+)?(us|ms|s|m|h))+$' };
const byteSize = { type: 'string', pattern: '^\\d+(\\.\\d+)?\\s*([bB]|[kKmMgG][bB]?)$' };
const cpus = { type: ['string', 'number'], pattern: '^\\d+(\\.\\d+)?$' };
const resources = { type: 'object', properties: { cpus, memory: byteSize }, required: ['cpus', 'memory'], additionalProperties: false };

const service = {
  type: 'object',
  properties: {
    image: { type: 'string', pattern: '^[a-z0-9./_-]+(:[\\w][\\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$' },
    build: { type: 'object', properties: { context: { type: 'string' }, dockerfile: { type: 'string' }, target: { type: 'string' } }, required: ['context'], additionalProperties: false },
    command: { anyOf: [{ type: 'string' }, texts] },
    entrypoint: { anyOf: [{ type: 'string' }, texts] },
    user: { type: 'string' },
    init: { type: 'boolean' },
    restart: { enum: ['no', 'always', 'on-failure', 'unless-stopped'] },
    stop_grace_period: duration,
    security_opt: { ...texts, uniqueItems: true },
    cap_drop: { ...texts, uniqueItems: true },
    environment: { anyOf: [texts, { type: 'object', additionalProperties: scalar }] },
    ports: { type: 'array', uniqueItems: true, items: { type: 'string', pattern: '^((\\d{1,3}\\.){3}\\d{1,3}:)?\\d+:\\d+(/(tcp|udp))?$' } },
    volumes: { type: 'array', uniqueItems: true, items: { type: 'string', pattern: '^[^:]+:/[^:]+(:(ro|rw))?$' } },
    depends_on: {
      type: 'object',
      additionalProperties: {
        type: 'object',
        properties: { condition: { enum: ['service_started', 'service_healthy', 'service_completed_successfully'] }, restart: { type: 'boolean' }, required: { type: 'boolean' } },
        required: ['condition'],
        additionalProperties: false,
      },
    },
    healthcheck: {
      type: 'object',
      properties: {
        test: { type: 'array', items: [{ enum: ['CMD', 'CMD-SHELL', 'NONE'] }], additionalItems: { type: 'string' }, minItems: 2 },
        interval: duration,
        timeout: duration,
        retries: { type: 'integer', minimum: 1 },
        start_period: duration,
      },
      required: ['test'],
      additionalProperties: false,
    },
    deploy: {
      type: 'object',
      properties: {
        replicas: { type: 'integer', minimum: 0 },
        resources: { type: 'object', properties: { limits: resources, reservations: resources }, additionalProperties: false },
      },
      additionalProperties: false,
    },
  },
  anyOf: [{ required: ['image'] }, { required: ['build'] }],
  additionalProperties: false,
};

export const composeSchema = {
  type: 'object',
  properties: {
    name: { type: 'string', pattern: '^[a-z0-9][a-z0-9_-]*$' },
    services: { type: 'object', patternProperties: { '^[a-zA-Z0-9._-]+$': service }, additionalProperties: false, minProperties: 1 },
    volumes: { type: 'object', patternProperties: { '^[a-zA-Z0-9._-]+$': { type: ['object', 'null'] } }, additionalProperties: false },
  },
  patternProperties: { '^x-': {} },
  required: ['services'],
  additionalProperties: false,
};
