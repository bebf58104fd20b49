import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  AbortMultipartUploadCommand, CompleteMultipartUploadCommand, CopyObjectCommand, CreateBucketCommand, CreateMultipartUploadCommand, DeleteObjectsCommand,
  GetObjectCommand, HeadBucketCommand, HeadObjectCommand, ListObjectsV2Command, PutObjectCommand, S3Client, S3ServiceException, UploadPartCommand,
} from '@aws-sdk/client-s3';
import type { StorageClass } from '@aws-sdk/client-s3';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { CopyingObjectStore, ObjectHead, ObjectStore, ObjectUpload, PutOptions } from './object-store.ts';

export interface S3Options {
  bucket: string;
  region: string;
  /** Absent: AWS itself. */
  endpoint?: string;
  /** Absent: the SDK's default chain (environment, profile, instance role). */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string };
  /** Sockets kept open to the store. Default 64. */
  socketsMax?: number;
  /** Longest wait for a connection. Default 5 s. */
  connectTimeoutMs?: number;
  /** Longest time for one try of one request, body included. Default 60 s. */
  requestTimeoutMs?: number;
  /** Tries of a request that may be repeated without harm (reads, listings, deletes, puts without a condition). Default 4. */
  attemptsMax?: number;
}

export interface S3ObjectStore extends CopyingObjectStore {
  /** Creates the bucket unless it is there. */
  ensureBucket(): Promise<void>;
  /** Closes the sockets. */
  close(): void;
}

/** DeleteObjects takes no more keys in one request. */
const deleteKeysMax = 1_000;
const retryBaseMs = 100;
/** S3 wants 5 MiB at least in each part but the last. */
const partBytesMin = 8 << 20;

/**
 * Paths are path style, and checksums are sent only where S3 demands them, because stores other than AWS's refuse the new
 * ones. The SDK never retries by itself: a conditional put that it repeats after a lost answer meets its own object and
 * reports a conflict that there is none.
 */
export function createS3ObjectStore(options: S3Options): S3ObjectStore {
  const { bucket, socketsMax = 64, connectTimeoutMs = 5_000, requestTimeoutMs = 60_000, attemptsMax = 4 } = options;
  const agent = { keepAlive: true, maxSockets: socketsMax };
  const client = new S3Client({
    region: options.region,
    ...(options.endpoint ? { endpoint: options.endpoint } : {}),
    ...(options.credentials ? { credentials: options.credentials } : {}),
    forcePathStyle: true,
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: connectTimeoutMs, httpAgent: agent, httpsAgent: agent },
  });
  const root = `s3://${bucket}/`;

  /** One try, within its own time; the caller's abort comes out as the reason that the caller gave. */
  const attempt = async <T>(what: string, signal: AbortSignal | undefined, send: (abortSignal: AbortSignal) => Promise<T>): Promise<T> => {
    signal?.throwIfAborted();
    const timeout = AbortSignal.timeout(requestTimeoutMs);
    try {
      return await send(signal ? AbortSignal.any([signal, timeout]) : timeout);
    } catch (cause) {
      signal?.throwIfAborted();
      throw translate(what, cause, timeout.aborted ? requestTimeoutMs : undefined);
    }
  };

  const repeated = async <T>(what: string, signal: AbortSignal | undefined, send: (abortSignal: AbortSignal) => Promise<T>): Promise<T> => {
    for (let tries = 1; ; tries += 1) {
      try {
        return await attempt(what, signal, send);
      } catch (error) {
        if (tries >= attemptsMax || !isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE')) throw error;
        await sleep(retryBaseMs * 2 ** (tries - 1) * (0.5 + Math.random()), undefined, signal ? { signal } : {});
      }
    }
  };

  /** A multipart upload; an object that fits one part is put in one request. The next part is filled while one is on its way. */
  class MultipartUpload implements ObjectUpload {
    private readonly key: string;
    private readonly options: Pick<PutOptions, 'contentType' | 'signal'>;
    private pieces: Uint8Array[] = [];
    private pieceBytes = 0;
    private sentBytes = 0;
    private uploadId: string | undefined;
    private readonly parts: { PartNumber: number; ETag: string }[] = [];
    private sending: Promise<void> = Promise.resolve();

    constructor(key: string, options: Pick<PutOptions, 'contentType' | 'signal'>) {
      this.key = key;
      this.options = options;
    }

    async append(bytes: Uint8Array): Promise<void> {
      this.pieces.push(bytes);
      this.pieceBytes += bytes.length;
      if (this.pieceBytes >= partBytesMin) await this.sendPart();
    }

    async finish(): Promise<void> {
      await this.sending;
      if (this.uploadId === undefined) {
        await store.put(this.key, Buffer.concat(this.pieces), this.options);
        return;
      }
      if (this.pieceBytes > 0) await this.sendPart();
      await this.sending;
      const { key, uploadId } = this;
      try {
        await repeated(`complete upload of ${key}`, this.options.signal, (abortSignal) =>
          client.send(new CompleteMultipartUploadCommand({ Bucket: bucket, Key: key, UploadId: uploadId, MultipartUpload: { Parts: this.parts } }), { abortSignal }));
      } catch (error) {
        // The upload is gone once it has taken effect: after a lost answer only the object tells.
        const found = await store.head(key).catch(() => undefined);
        if (found?.size !== this.sentBytes) throw error;
      }
    }

    async abort(): Promise<void> {
      try {
        await this.sending;
      } catch {
        // The failure was the caller's reason to give up.
      }
      const { key, uploadId } = this;
      if (uploadId === undefined) return;
      await attempt(`abort upload of ${key}`, undefined, (abortSignal) => client.send(new AbortMultipartUploadCommand({ Bucket: bucket, Key: key, UploadId: uploadId }), { abortSignal })).catch(() => {});
    }

    private async sendPart(): Promise<void> {
      const { key, options: { contentType, signal } } = this;
      await this.sending;
      this.uploadId ??= (await repeated(`start upload of ${key}`, signal, (abortSignal) =>
        client.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: key, ...(contentType ? { ContentType: contentType } : {}) }), { abortSignal }))).UploadId;
      const { uploadId } = this;
      const body = Buffer.concat(this.pieces);
      this.pieces = [];
      this.pieceBytes = 0;
      this.sentBytes += body.length;
      const PartNumber = this.parts.length + 1;
      const part = { PartNumber, ETag: '' };
      this.parts.push(part);
      this.sending = repeated(`part ${PartNumber} of ${key}`, signal, async (abortSignal) => {
        const { ETag } = await client.send(new UploadPartCommand({ Bucket: bucket, Key: key, UploadId: uploadId, PartNumber, Body: body, ContentLength: body.length }), { abortSignal });
        part.ETag = ETag ?? '';
      });
      // Awaited by the next part, or by finish and abort.
      this.sending.catch(() => {});
    }
  }

  const store: S3ObjectStore = {
    bucket,
    location: (key) => root + key,
    keyOf(location) {
      if (!location.startsWith(root)) throw new TidemarkError('BAD_INPUT', `location: expected ${root}…, found ${location}`);
      return location.slice(root.length);
    },

    async put(key, body, { condition, metadata, contentType, signal }: PutOptions = {}) {
      // The SDK takes an empty string for a stream of unknown length.
      const bytes = typeof body === 'string' ? Buffer.from(body) : body;
      const send = async (abortSignal: AbortSignal): Promise<{ etag: string }> => {
        const { ETag } = await client.send(new PutObjectCommand({
          Bucket: bucket, Key: key, Body: bytes, ContentLength: bytes.length,
          ...(condition === 'absent' ? { IfNoneMatch: '*' } : condition ? { IfMatch: condition.etag } : {}),
          ...(metadata ? { Metadata: metadata } : {}),
          ...(contentType ? { ContentType: contentType } : {}),
        }), { abortSignal });
        return { etag: ETag ?? '' };
      };
      return condition ? attempt(`put ${key}`, signal, send) : repeated(`put ${key}`, signal, send);
    },

    upload: (key, uploadOptions = {}) => new MultipartUpload(key, uploadOptions),

    get: (key, { signal } = {}) => repeated(`get ${key}`, signal, async (abortSignal) => {
      const { Body, ETag, Metadata } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }), { abortSignal });
      return { body: await Body!.transformToByteArray(), etag: ETag ?? '', metadata: Metadata ?? {} };
    }),

    getRange: (key, start, end, { signal } = {}) => repeated(`get ${key} [${start}, ${end})`, signal, async (abortSignal) => {
      if (end <= start) return new Uint8Array(0);
      const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key, Range: `bytes=${start}-${end - 1}` }), { abortSignal });
      return Body!.transformToByteArray();
    }),

    head: (key) => repeated(`head ${key}`, undefined, async (abortSignal) => {
      const { ContentLength, ETag, LastModified, Metadata } = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }), { abortSignal });
      return { key, size: ContentLength ?? 0, etag: ETag ?? '', lastModifiedMs: LastModified?.getTime() ?? 0, metadata: Metadata ?? {} };
    }),

    async *list(prefix, { startAfter } = {}): AsyncGenerator<ObjectHead> {
      for (let token: string | undefined; ;) {
        const page = await repeated(`list ${prefix}`, undefined, (abortSignal) => client.send(new ListObjectsV2Command({
          Bucket: bucket, Prefix: prefix, ...(token ? { ContinuationToken: token } : startAfter ? { StartAfter: startAfter } : {}),
        }), { abortSignal }));
        for (const { Key, Size, ETag, LastModified } of page.Contents ?? []) {
          yield { key: Key!, size: Size ?? 0, etag: ETag ?? '', lastModifiedMs: LastModified?.getTime() ?? 0, metadata: {} };
        }
        token = page.IsTruncated ? page.NextContinuationToken : undefined;
        if (!token) return;
      }
    },

    async delete(keys) {
      for (let from = 0; from < keys.length; from += deleteKeysMax) {
        const objects = keys.slice(from, from + deleteKeysMax).map((Key) => ({ Key }));
        await repeated(`delete ${objects.length} objects`, undefined, async (abortSignal) => {
          const { Errors } = await client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects: objects, Quiet: true } }), { abortSignal });
          const failed = Errors?.find(({ Code }) => Code !== 'NoSuchKey');
          if (failed) {
            throw new TidemarkError('OBJECT_STORE_UNAVAILABLE', `delete ${failed.Key}: expected success, found ${failed.Code ?? 'an error'} (${Errors!.length} of ${objects.length} keys failed)`);
          }
        });
      }
    },

    copyFrom: (source, sourceKey, key, { storageClass, signal } = {}) => repeated(`copy ${sourceKey} to ${key}`, signal, async (abortSignal) => {
      await client.send(new CopyObjectCommand({
        Bucket: bucket, Key: key, CopySource: `${source.bucket}/${sourceKey.split('/').map(encodeURIComponent).join('/')}`, MetadataDirective: 'COPY',
        ...(storageClass ? { StorageClass: storageClass as StorageClass } : {}),
      }), { abortSignal });
    }),

    async ensureBucket() {
      try {
        await repeated(`bucket ${bucket}`, undefined, (abortSignal) => client.send(new HeadBucketCommand({ Bucket: bucket }), { abortSignal }));
      } catch (error) {
        if (!isTidemarkError(error, 'OBJECT_NOT_FOUND')) throw error;
        await repeated(`bucket ${bucket}`, undefined, async (abortSignal) => {
          try {
            await client.send(new CreateBucketCommand({ Bucket: bucket }), { abortSignal });
          } catch (cause) {
            // Another process was faster.
            if (!(cause instanceof S3ServiceException && cause.name === 'BucketAlreadyOwnedByYou')) throw cause;
          }
        });
      }
    },

    close: () => client.destroy(),
  };
  return store;
}

/** One place where the SDK's errors become ours. Messages name the operation, the status and S3's code: no headers, no credentials. */
function translate(what: string, cause: unknown, timedOutAfterMs: number | undefined): TidemarkError {
  if (cause instanceof TidemarkError) return cause;
  const status = cause instanceof S3ServiceException ? cause.$metadata.httpStatusCode : undefined;
  const name = cause instanceof Error ? cause.name : 'unknown error';
  const found = timedOutAfterMs === undefined ? `${status ?? 'no answer'} ${name}` : `no answer within ${timedOutAfterMs} ms`;
  const message = `object store, ${what}: ${found}`;
  if (timedOutAfterMs === undefined) {
    // Not every 404 is a missing object: a bucket may be missing, and some stores answer so to an unknown access key.
    if (name === 'NoSuchKey' || name === 'NotFound') return new TidemarkError('OBJECT_NOT_FOUND', message, { cause });
    if (status === 412) return new TidemarkError('PRECONDITION_FAILED', message, { cause });
    // A clock that is off and a throttled request pass; a refused key, signature or argument does not.
    const passing = status === undefined || status === 408 || status === 409 || status === 429 || status >= 500 || name === 'RequestTimeTooSkewed' || name === 'RequestTimeout';
    if (!passing) return new TidemarkError('BAD_CONFIG', message, { cause });
  }
  return new TidemarkError('OBJECT_STORE_UNAVAILABLE', message, { cause });
}

/**
 * Asks the store for the four answers that table commits depend on, on a scratch object under `prefix`. A store that lets a
 * conditional put through when it must refuse it would lose commits silently: STORE_WITHOUT_CONDITIONAL_WRITES.
 */
export async function probeConditionalWrites(store: ObjectStore, prefix = 'warehouse/.probe/'): Promise<void> {
  const key = `${prefix}${randomUUID()}`;
  const refused = async (condition: 'absent' | { etag: string }): Promise<boolean> => {
    try {
      await store.put(key, 'refuse', { condition });
      return false;
    } catch (error) {
      if (isTidemarkError(error, 'PRECONDITION_FAILED')) return true;
      throw unsupported(error);
    }
  };
  const accepted = async (body: string, condition: 'absent' | { etag: string }): Promise<{ etag: string }> => {
    try {
      return await store.put(key, body, { condition });
    } catch (error) {
      throw unsupported(error);
    }
  };
  // A store that answers "not implemented" does it with 501, which looks like an outage.
  const unsupported = (cause: unknown): unknown =>
    isTidemarkError(cause, 'BAD_CONFIG') || (isTidemarkError(cause) && /: 501 /.test(cause.message))
      ? new TidemarkError('STORE_WITHOUT_CONDITIONAL_WRITES', `object store, bucket ${store.bucket}: expected conditional puts, found ${cause.message}`, { cause })
      : cause;
  const demand = (holds: boolean, expected: string): void => {
    if (!holds) {
      throw new TidemarkError('STORE_WITHOUT_CONDITIONAL_WRITES', `object store, bucket ${store.bucket}: expected ${expected}, found the object overwritten`);
    }
  };
  try {
    const first = await accepted('first', 'absent');
    demand(await refused('absent'), 'a put with If-None-Match: * on an existing object to be refused');
    const second = await accepted('second', first);
    demand(second.etag !== first.etag, 'an ETag that changes with the content');
    demand(await refused(first), 'a put with an outdated If-Match to be refused');
  } finally {
    await store.delete([key]);
  }
}
