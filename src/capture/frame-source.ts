import type { Feed } from './feed.ts';
import type { Frame } from './frame.ts';

/** Frames of one feed, in the order they were received. */
export interface FrameBatch {
  feed: Feed;
  frames: Frame[];
  /** What the source could not read as a frame at all; kept, as frames are that cannot be parsed. */
  damaged: { text: string; reason: string }[];
}

/** How often a live source had to connect; zero for files. */
export interface ConnectionCounts {
  connections: number;
  /** Connections that ended without the source being over. */
  drops: number;
}

/** Where frames come from. It is pulled: a reader that is slow slows the source, and nothing is dropped. */
export interface FrameSource {
  readonly name: string;
  /** After the signal it ends: a live source with what it has received by then. */
  batches(signal?: AbortSignal): AsyncIterable<FrameBatch>;
  connectionCounts?(): ConnectionCounts;
}
