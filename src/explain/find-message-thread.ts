import { parentPort, workerData } from 'node:worker_threads';
import { messageIdFinder } from '../refine/message-id.ts';

/** Offsets of one topic partition to look through: half-open. */
export interface MessageSlice {
  topic: string;
  partition: number;
  start: number;
  end: number;
}

const port = parentPort!;
const answer = (offset: number | null): void => { port.postMessage(offset); };
const finders = new Map<string, ReturnType<typeof messageIdFinder>>();
const { messageId } = workerData as { messageId: string };

port.on('message', ({ topic, partition, start, end }: MessageSlice) => {
  const key = `${topic}/${partition}`;
  let find = finders.get(key);
  if (!find) finders.set(key, find = messageIdFinder(topic, partition, messageId));
  answer(find(start, end));
});
