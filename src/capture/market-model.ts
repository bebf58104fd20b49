import type { Random } from './random.ts';
import { createRandom } from './random.ts';

export interface MarketModelOptions {
  /** The same seed and options give the same trades. */
  seed: number;
  /** How many trades; all different. */
  trades: number;
  /** As the exchange writes them. */
  symbols: readonly string[];
  /** Event time of the first trade, µs since the epoch. */
  startMicros: number;
  /** About how much event time the trades cover, µs; they never pass its end. */
  spanMicros: number;
  /** Chance that an event is a burst: one order that trades with many, within one millisecond. Default 0.02. */
  burstRatio?: number;
  /** Most trades of one burst. Default 200; real ones reach 735 in a millisecond. */
  burstTradesMax?: number;
}

/** One event of one symbol: a single trade, or the trades of a burst. Trades of an event share time and side. */
export interface MarketEvent {
  symbol: string;
  timeMicros: number;
  isBuyerMaker: boolean;
  /** Id of the first trade; the others follow. Ids of a symbol have no holes. */
  firstId: number;
  prices: string[];
  quantities: string[];
}

interface SymbolState {
  symbol: string;
  nextId: number;
  lastMicros: number;
  /** Price in ticks of 10^-decimals. */
  ticks: number;
  decimals: number;
  /** Quantities are whole multiples of 10^-quantityDecimals. */
  quantityDecimals: number;
}

const burstRatioDefault = 0.02;
const burstTradesMaxDefault = 200;
const decimalsOfExchanges = 8;

/** Whole units of 10^-decimals as text with eight decimals, as the exchanges write them; digits only, no double. */
export const decimalText = (units: number | bigint, decimals: number): string => {
  const digits = String(units).padStart(decimals + 1, '0');
  const whole = digits.slice(0, digits.length - decimals);
  return `${whole}.${digits.slice(digits.length - decimals).padEnd(decimalsOfExchanges, '0')}`;
};

/** A price between 0.05 and 70,000 with five significant digits, and a quantity step that fits it. */
const openSymbol = (symbol: string, index: number, random: Random): SymbolState => {
  const magnitude = index === 0 ? 0 : index % 6;
  const decimals = 2 + magnitude;
  return {
    symbol,
    nextId: 1_000_000 + random.below(1_000_000_000),
    lastMicros: 0,
    ticks: magnitude === 0 ? 2_000_000 + random.below(5_000_000) : 500_000 + random.below(4_000_000),
    decimals,
    quantityDecimals: Math.max(0, 6 - magnitude),
  };
};

/**
 * A market of several symbols, of which the first trade most: prices walk by ticks, quantities spread over four orders of
 * magnitude, and now and then a large order trades with many others within one millisecond. The events of a symbol are in
 * strict time order, at least a microsecond apart, and the whole market's are in time order.
 */
export function* marketEvents({
  seed, trades, symbols, startMicros, spanMicros, burstRatio = burstRatioDefault, burstTradesMax = burstTradesMaxDefault,
}: MarketModelOptions): Generator<MarketEvent, void, undefined> {
  const random = createRandom(seed);
  const markets = symbols.map((symbol, index) => openSymbol(symbol, index, random));
  const burstTradesMean = (burstTradesMax + 2) / 2;
  const tradesOfEvent = 1 + burstRatio * (burstTradesMean - 1);
  const gapMeanMicros = Math.max(2, (spanMicros * tradesOfEvent) / Math.max(1, trades));
  const endMicros = startMicros + spanMicros;
  let timeMicros = startMicros;

  for (let left = trades; left > 0;) {
    // The square of a uniform number prefers the first symbols, as real markets do.
    const market = markets[Math.floor(random.unit() ** 2 * markets.length)]!;
    const isBurst = random.unit() < burstRatio;
    const count = Math.min(left, isBurst ? 2 + random.below(burstTradesMax - 1) : 1);
    left -= count;
    timeMicros = Math.min(endMicros, timeMicros + Math.ceil(-Math.log(1 - random.unit()) * gapMeanMicros));
    // At the end of the span the clock stands: keep each symbol strictly in order before it.
    const eventMicros = Math.max(timeMicros, market.lastMicros + 1);
    market.lastMicros = eventMicros;

    const isBuyerMaker = random.uint32() % 2 === 0;
    const prices: string[] = [];
    const quantities: string[] = [];
    market.ticks = Math.max(1_000, market.ticks + random.below(7) - 3);
    let price = decimalText(market.ticks, market.decimals);
    for (let i = 0; i < count; i += 1) {
      // A large order eats through the book, several trades at each price.
      if (isBurst && random.uint32() % 4 === 0) {
        market.ticks = Math.max(1_000, market.ticks + (isBuyerMaker ? -1 : 1));
        price = decimalText(market.ticks, market.decimals);
      }
      prices.push(price);
      quantities.push(decimalText(1 + random.below(10 ** (1 + random.below(4))), market.quantityDecimals));
    }
    yield { symbol: market.symbol, timeMicros: eventMicros, isBuyerMaker, firstId: market.nextId, prices, quantities };
    market.nextId += count;
  }
}
