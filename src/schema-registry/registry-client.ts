import { TidemarkError, isTidemarkError } from '../domain/errors.ts';

export interface RegistryOptions {
  /** Base URL of the Confluent-compatible API; may hold a user and a password. */
  url: string;
  /** Longest one request may take. */
  timeoutMs?: number;
  /** Requests for one call, the first included; only what a retry can help is sent again. */
  attemptsMax?: number;
  /** Wait before the second request; doubles from there. */
  backoffMs?: number;
}

/** A registered schema: the id is the registry's, for all its subjects. */
export interface RegisteredSchema {
  id: number;
  /** The schema as JSON text. */
  schema: string;
}

/**
 * Errors: REGISTRY_UNAVAILABLE (retryable: no connection, timeout, 429, 5xx), SCHEMA_NOT_FOUND, SCHEMA_INCOMPATIBLE (the
 * subject's compatibility refuses it, or it is no valid or no Avro schema), BAD_INPUT.
 */
export interface RegistryClient {
  /** Registers under the subject, or finds it there; gives the id. Repeatable. */
  register(subject: string, schema: object): Promise<number>;
  /** Sets the subject's compatibility, for example BACKWARD. */
  setCompatibility(subject: string, level: string): Promise<void>;
  schemaById(id: number): Promise<string>;
  /** Versions of a subject, ascending; none for a subject that is not there. */
  versions(subject: string): Promise<number[]>;
  version(subject: string, version: number): Promise<RegisteredSchema>;
}

const contentType = 'application/vnd.schemaregistry.v1+json';

// The Confluent REST API is three requests here, so it needs no client library: the one at hand retries what it should
// not, has no timeout, and loses the registry's error code.
export const createRegistryClient = ({ url, timeoutMs = 10_000, attemptsMax = 4, backoffMs = 100 }: RegistryOptions): RegistryClient => {
  // A user and a password in the URL become a header: fetch refuses them there, with a message that shows them.
  const address = new URL(url);
  const authorization = address.username === '' ? undefined
    : `Basic ${Buffer.from(`${decodeURIComponent(address.username)}:${decodeURIComponent(address.password)}`).toString('base64')}`;
  address.username = '';
  address.password = '';
  const base = address.href.replace(/\/+$/, '');

  const requestOnce = async (method: string, path: string, body: object | undefined, subject: string): Promise<unknown> => {
    let response: Response;
    let text: string;
    try {
      response = await fetch(`${base}${path}`, {
        method,
        headers: { accept: contentType, ...(authorization === undefined ? {} : { authorization }), ...(body === undefined ? {} : { 'content-type': contentType }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(timeoutMs),
      });
      text = await response.text();
    } catch (cause) {
      throw new TidemarkError('REGISTRY_UNAVAILABLE', `${subject}: no answer from the schema registry at ${base}`, { cause });
    }
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch {
      answer = undefined;
    }
    if (response.ok && answer !== undefined) return answer;
    const { error_code: errorCode, message } = (answer ?? {}) as { error_code?: number; message?: string };
    const found = `the schema registry answered ${response.status}${errorCode === undefined ? '' : ` (${errorCode})`}${message === undefined ? '' : `: ${message}`}`;
    if (response.status === 429 || response.status >= 500) throw new TidemarkError('REGISTRY_UNAVAILABLE', `${subject}: ${found}`);
    // A 404 that is none of the registry's own means that something else answers at this address.
    if (response.status === 404 && errorCode !== undefined) throw new TidemarkError('SCHEMA_NOT_FOUND', `${subject}: ${found}`);
    if (response.status === 409 || response.status === 422) throw new TidemarkError('SCHEMA_INCOMPATIBLE', `${subject}: ${found}`);
    throw new TidemarkError('BAD_INPUT', `${subject}: expected a Confluent-compatible API at ${base}, ${found}`);
  };

  const request = async (method: string, path: string, body: object | undefined, subject: string): Promise<unknown> => {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await requestOnce(method, path, body, subject);
      } catch (error) {
        if (!(error instanceof TidemarkError && error.retryable) || attempt >= attemptsMax) throw error;
        await new Promise((resolve) => { setTimeout(resolve, backoffMs * 2 ** (attempt - 1) * (0.5 + Math.random())); });
      }
    }
  };

  /**
   * Of two producers that prepare a new subject at once one may be answered 409, as if its schema were incompatible;
   * asked again, the registry finds what the other has made. What is incompatible stays refused.
   */
  const requestTwice = (method: string, path: string, body: object, subject: string): Promise<unknown> =>
    request(method, path, body, subject).catch(async (error: unknown) => {
      if (!isTidemarkError(error, 'SCHEMA_INCOMPATIBLE')) throw error;
      await new Promise((resolve) => { setTimeout(resolve, backoffMs * (0.5 + Math.random())); });
      return request(method, path, body, subject);
    });

  return {
    async register(subject, schema) {
      const answer = await requestTwice('POST', `/subjects/${encodeURIComponent(subject)}/versions`, { schemaType: 'AVRO', schema: JSON.stringify(schema) }, `subject ${subject}`) as { id?: unknown };
      if (typeof answer.id !== 'number') throw new TidemarkError('BAD_INPUT', `subject ${subject}: expected a schema id, found ${JSON.stringify(answer)}`);
      return answer.id;
    },
    async setCompatibility(subject, level) {
      await requestTwice('PUT', `/config/${encodeURIComponent(subject)}`, { compatibility: level }, `subject ${subject}`);
    },
    async schemaById(id) {
      const answer = await request('GET', `/schemas/ids/${id}`, undefined, `schema id ${id}`) as { schema?: unknown; schemaType?: unknown };
      if (typeof answer.schema !== 'string') throw new TidemarkError('BAD_INPUT', `schema id ${id}: expected a schema, found ${JSON.stringify(answer)}`);
      if (answer.schemaType !== undefined && answer.schemaType !== 'AVRO') {
        throw new TidemarkError('SCHEMA_INCOMPATIBLE', `schema id ${id}: expected an Avro schema, found ${String(answer.schemaType)}`);
      }
      return answer.schema;
    },
    async versions(subject) {
      try {
        const answer = await request('GET', `/subjects/${encodeURIComponent(subject)}/versions`, undefined, `subject ${subject}`);
        if (!Array.isArray(answer) || !answer.every((version) => typeof version === 'number')) throw new TidemarkError('BAD_INPUT', `subject ${subject}: expected versions, found ${JSON.stringify(answer)}`);
        return answer.sort((one, other) => one - other);
      } catch (error) {
        if (isTidemarkError(error, 'SCHEMA_NOT_FOUND')) return [];
        throw error;
      }
    },
    async version(subject, version) {
      const answer = await request('GET', `/subjects/${encodeURIComponent(subject)}/versions/${version}`, undefined, `subject ${subject}, version ${version}`) as { id?: unknown; schema?: unknown };
      if (typeof answer.id !== 'number' || typeof answer.schema !== 'string') throw new TidemarkError('BAD_INPUT', `subject ${subject}, version ${version}: expected a schema and its id, found ${JSON.stringify(answer)}`);
      return { id: answer.id, schema: answer.schema };
    },
  };
};
