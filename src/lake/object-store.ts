/** What the lake asks of an S3 store. Keys are relative to the bucket, without a leading slash. */
export interface ObjectHead {
  key: string;
  size: number;
  /** Opaque version of the content; `If-Match` takes it back. */
  etag: string;
  lastModifiedMs: number;
  /** User metadata (x-amz-meta-*), lower-case names without the prefix. */
  metadata: Record<string, string>;
}

export interface PutOptions {
  /** `absent` is `If-None-Match: *`; `{ etag }` is `If-Match`. A refused condition throws PRECONDITION_FAILED. */
  condition?: 'absent' | { etag: string };
  metadata?: Record<string, string>;
  contentType?: string;
  signal?: AbortSignal;
}

/**
 * An object that is put piece by piece, so that only a few pieces of it are in memory. There is no object before `finish` has
 * resolved; what a killed writer leaves behind is no object either (S3 keeps the parts until a lifecycle rule takes them).
 */
export interface ObjectUpload {
  /** Takes the bytes over. Resolves when there is room for more. */
  append(bytes: Uint8Array): Promise<void>;
  finish(): Promise<void>;
  /** Gives up. Never throws. */
  abort(): Promise<void>;
}

/**
 * Errors are {@link TidemarkError}s: OBJECT_NOT_FOUND, PRECONDITION_FAILED (412), OBJECT_STORE_UNAVAILABLE (retryable:
 * timeouts, 409, 5xx, connection loss). After OBJECT_STORE_UNAVAILABLE on a put the outcome is unknown: look before acting.
 */
export interface ObjectStore {
  readonly bucket: string;
  /** The absolute location that table metadata names: `s3://<bucket>/<key>`. */
  location(key: string): string;
  /** The inverse of {@link location}; throws BAD_INPUT for a location outside of the bucket. */
  keyOf(location: string): string;
  put(key: string, body: Uint8Array | string, options?: PutOptions): Promise<{ etag: string }>;
  /** Starts an object under a key that nobody else writes. */
  upload(key: string, options?: Pick<PutOptions, 'contentType' | 'signal'>): ObjectUpload;
  get(key: string, options?: { signal?: AbortSignal }): Promise<{ body: Uint8Array; etag: string; metadata: Record<string, string> }>;
  /** Bytes [start, end) of the object. */
  getRange(key: string, start: number, end: number, options?: { signal?: AbortSignal }): Promise<Uint8Array>;
  head(key: string): Promise<ObjectHead>;
  /** Objects by ascending key; pages behind the iterator. `metadata` is empty in listings. */
  list(prefix: string, options?: { startAfter?: string }): AsyncIterable<ObjectHead>;
  /** Deleting what is not there is a success. */
  delete(keys: string[]): Promise<void>;
}

/** A store whose service copies objects by itself, between buckets too: no byte passes through this process. */
export interface CopyingObjectStore extends ObjectStore {
  /**
   * Copies an object as it is, bytes, user metadata and content type, over whatever is at `key`. Up to 5 GB. The storage
   * class is the service's word (`GLACIER_IR`); without one its default. Says nothing of the copy's content: read it back.
   */
  copyFrom(source: Pick<ObjectStore, 'bucket'>, sourceKey: string, key: string, options?: { storageClass?: string; signal?: AbortSignal }): Promise<void>;
}
