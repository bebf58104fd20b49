import type { ExtendRetentionInput, RestoreOutcome, RetentionExtension } from '../contracts/retention-extension.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { TopicConfigs } from '../kafka/topic-configs.ts';
import type { ObjectStore } from '../lake/object-store.ts';

const retentionConfig = 'retention.ms';
const triesMax = 5;
const prefix = 'retention-extensions/';
const keyOf = (topic: string): string => `${prefix}${topic}.json`;

export interface RetentionExtensionDeps {
  store: ObjectStore;
  fetchConfigs(topic: string): Promise<TopicConfigs>;
  setConfig(topic: string, name: string, value: string | null): Promise<void>;
  now?: () => number;
}

/** Null: the topic is not extended. */
export const loadExtension = async (store: ObjectStore, topic: string): Promise<{ extension: RetentionExtension; etag: string } | null> => {
  try {
    const { body, etag } = await store.get(keyOf(topic));
    return { extension: JSON.parse(Buffer.from(body).toString('utf8')) as RetentionExtension, etag };
  } catch (error) {
    if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return null;
    throw error;
  }
};

/** Of all topics, by name. */
export const listExtensions = async (store: ObjectStore): Promise<RetentionExtension[]> => {
  const found: RetentionExtension[] = [];
  for await (const { key } of store.list(prefix)) {
    const known = await loadExtension(store, key.slice(prefix.length, -'.json'.length));
    if (known) found.push(known.extension);
  }
  return found;
};

/**
 * Raises a topic's `retention.ms`. What it was is in the lake before anything changes, and stays what it was however
 * often an extension is extended: so a repetition, at any point, changes nothing but to go on.
 */
export const raiseRetention = async ({ store, fetchConfigs, setConfig, now = Date.now }: RetentionExtensionDeps, input: ExtendRetentionInput): Promise<RetentionExtension> => {
  const { topic, retentionMs, untilMs } = input;
  const { overrides, effective } = await fetchConfigs(topic);
  for (let tries = 1; ; tries += 1) {
    const known = await loadExtension(store, topic);
    const extension: RetentionExtension = known
      ? { ...known.extension, retentionMs, untilMs }
      : { topic, retentionMs, untilMs, previous: overrides[retentionConfig] ?? null, beforeMs: Number(effective[retentionConfig] ?? -1), startedAtMs: now() };
    try {
      await store.put(keyOf(topic), JSON.stringify(extension), { condition: known ? { etag: known.etag } : 'absent', contentType: 'application/json' });
    } catch (error) {
      // An attempt that was given up on was there first.
      if (!isTidemarkError(error, 'PRECONDITION_FAILED') || tries >= triesMax) throw error;
      continue;
    }
    await setConfig(topic, retentionConfig, String(retentionMs));
    return extension;
  }
};

/** Puts a topic's `retention.ms` back to what it was, unless somebody changed it meanwhile. */
export const restoreRetention = async ({ store, fetchConfigs, setConfig }: RetentionExtensionDeps, topic: string): Promise<RestoreOutcome> => {
  const known = await loadExtension(store, topic);
  if (!known) return 'notExtended';
  const { previous, retentionMs } = known.extension;
  const current = (await fetchConfigs(topic)).overrides[retentionConfig] ?? null;
  const isOurs = current === String(retentionMs);
  if (isOurs) await setConfig(topic, retentionConfig, previous);
  await store.delete([keyOf(topic)]);
  // An earlier attempt may have come as far as the config.
  return isOurs || current === previous ? 'restored' : 'changedMeanwhile';
};
