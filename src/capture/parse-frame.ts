import { isTidemarkError } from '../domain/errors.ts';
import { parseBinanceFrame } from './binance-frames.ts';
import type { Exchange, Feed } from './feed.ts';
import type { Frame, ParsedFrame } from './frame.ts';
import { FrameError } from './frame.ts';
import type { JsonText } from './json-text.ts';
import { parseJsonText } from './json-text.ts';
import { parseKrakenFrame } from './kraken-frames.ts';

const parsers: Readonly<Record<Exchange, (value: JsonText, market: string, receivedMicros: number) => ParsedFrame>> = {
  binance: parseBinanceFrame,
  kraken: parseKrakenFrame,
};

/** Nanoseconds since the epoch, as text → microseconds, exact until the year 2255. */
export const microsOfNanos = (nanos: string): number => Number(nanos.slice(0, -3));

/**
 * Reads one frame. Numbers stay text from the frame to the record: no price or quantity ever passes through a double.
 * Never throws: what cannot be read is `unparsable` with the reason.
 */
export const parseFrame = (feed: Feed, frame: Frame): ParsedFrame => {
  try {
    return parsers[feed.exchange](parseJsonText(frame.text), feed.market, microsOfNanos(frame.receivedNs));
  } catch (error) {
    if (error instanceof FrameError || isTidemarkError(error, 'BAD_INPUT')) return { kind: 'unparsable', reason: error.message };
    throw error;
  }
};
