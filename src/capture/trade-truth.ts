import { decimalText } from './market-model.ts';

/** What was generated for one symbol: counted where it is made, so that it can be compared with what arrived. */
export interface SymbolTruth {
  /** All different: a repetition does not count. */
  trades: number;
  /** The exact sum of their quantities, with eight decimals. */
  quantity: string;
}

const decimals = 8;

/** `12.34000000` → 1234000000n. */
const unitsOf = (text: string): bigint => {
  const point = text.indexOf('.');
  return BigInt(point < 0 ? text + '0'.repeat(decimals) : text.slice(0, point) + text.slice(point + 1).padEnd(decimals, '0'));
};

export class TradeTruth {
  private readonly symbols = new Map<string, { trades: number; units: bigint }>();
  private counted = 0;

  add(symbol: string, quantities: readonly string[]): void {
    let entry = this.symbols.get(symbol);
    if (!entry) this.symbols.set(symbol, entry = { trades: 0, units: 0n });
    entry.trades += quantities.length;
    this.counted += quantities.length;
    for (const quantity of quantities) entry.units += unitsOf(quantity);
  }

  get trades(): number {
    return this.counted;
  }

  bySymbol(): Record<string, SymbolTruth> {
    return Object.fromEntries([...this.symbols].sort(([a], [b]) => (a < b ? -1 : 1)).map(([symbol, { trades, units }]) => [symbol, { trades, quantity: decimalText(units, decimals) }]));
  }
}
