import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { ObjectStore } from '../lake/object-store.ts';

/**
 * Which topic a name meant when its first record came into the lake, under `topics/<topic>.json`. A topic that was deleted
 * and made again has the name and other records at the same offsets: what is in the lake and what it brings must not mix.
 */
export class TopicIdentity {
  private readonly store: ObjectStore;
  private readonly known = new Map<string, string>();

  constructor(store: ObjectStore) {
    this.store = store;
  }

  /** Throws TOPIC_RECREATED when the lake knows the topic by another id; OBJECT_STORE_UNAVAILABLE. Null, the id is not known: nothing is checked. */
  async check(topic: string, topicId: string | null): Promise<void> {
    if (topicId === null || this.known.get(topic) === topicId) return;
    const key = `topics/${topic}.json`;
    let first = topicId;
    try {
      await this.store.put(key, JSON.stringify({ topic, topicId }), { condition: 'absent', contentType: 'application/json' });
    } catch (error) {
      if (!isTidemarkError(error, 'PRECONDITION_FAILED')) throw error;
      first = (JSON.parse(Buffer.from((await this.store.get(key)).body).toString('utf8')) as { topicId: string }).topicId;
    }
    if (first !== topicId) {
      throw new TidemarkError('TOPIC_RECREATED', `${topic}: expected the topic with id ${first} that the lake was filled from, found ${topicId}: it was deleted and made again. Its offsets would collide with those in the lake: give the new topic another name`);
    }
    this.known.set(topic, topicId);
  }
}
