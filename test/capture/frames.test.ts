import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { feedOf } from '../../src/capture/feed.ts';
import type { CapturedBinanceTrade, ParsedFrame } from '../../src/capture/frame.ts';
import { parseFrame } from '../../src/capture/parse-frame.ts';
import type { KrakenRawTrade } from '../../src/datasets/kraken-trades.ts';
import { exchangeData, unlessAbsent } from './exchange-data.ts';

const receivedNs = '1680652800004107999';
const parse = (exchange: string, market: string, text: string): ParsedFrame => parseFrame(feedOf(exchange, market, 'test', 'test'), { receivedNs, text });
const tradesOf = (frame: ParsedFrame) => {
  if (frame.kind !== 'trade') throw new Error(`expected a trade frame, found ${JSON.stringify(frame)}`);
  return frame.trades;
};

describe('Binance frames', () => {
  test('a spot trade keeps every field of its frame, prices as the text of the frame', () => {
    const [trade] = tradesOf(parse('binance', 'spot', '{"stream":"btcusdt@trade","data":{"e":"trade","E":1680652800000,"s":"BTCUSDT","t":3071245454,"p":"28165.47000000","q":"0.00056000","b":20720542158,"a":20720542592,"T":1680652799999,"m":true,"M":true}}'));
    expect(trade).toEqual({
      event_type: 'trade', event_time_ms: 1680652800000, symbol: 'BTCUSDT', trade_id: 3071245454, price: '28165.47000000', quantity: '0.00056000',
      trade_time_ms: 1680652799999, is_buyer_maker: true, is_best_match: true, ingestion_timestamp: 1680652800004107, market: 'spot', native_id: null,
      extra: { b: '20720542158', a: '20720542592' },
    });
  });

  test('an aggregate trade is identified by a, and says which trades it holds', () => {
    const [trade] = tradesOf(parse('binance', 'coinm', '{"e":"aggTrade","E":1616201787561,"a":5091038,"s":"BTCUSD_210625","p":"62838.0","q":"5","f":7621250,"l":7621251,"T":1616201787407,"m":false}'));
    expect(trade).toMatchObject({ event_type: 'aggTrade', trade_id: 5091038, market: 'coinm', is_best_match: null, is_buyer_maker: false, extra: { f: '7621250', l: '7621251' } });
  });

  test('a trade of price zero is still a trade: it uses up an id, and the rules refuse it later', () => {
    const [trade] = tradesOf(parse('binance', 'usdm', '{"stream":"xrpusdt@trade","data":{"e":"trade","E":1746194730699,"T":1746194730699,"s":"XRPUSDT","t":2332526925,"p":"0","q":"0","X":"NA","m":false}}'));
    expect(trade).toMatchObject({ price: '0', quantity: '0', extra: { X: 'NA' } });
  });

  test('an id beyond 2^53 is exact', () => {
    const [trade] = tradesOf(parse('binance', 'spot', '{"e":"trade","E":1,"s":"A","t":9007199254740993,"p":"1","q":"1","T":1,"m":false}'));
    expect((trade as CapturedBinanceTrade).trade_id).toBe(9007199254740993n);
  });

  test('a price that comes as a number keeps its literal', () => {
    const [trade] = tradesOf(parse('binance', 'spot', '{"e":"trade","E":1,"s":"A","t":1,"p":0.10000000000000000555,"q":1E-8,"T":1,"m":false}'));
    expect(trade).toMatchObject({ price: '0.10000000000000000555', quantity: '1E-8' });
  });

  test.each([
    ['no price', '{"e":"trade","E":1,"s":"A","t":1,"q":"1","T":1,"m":false}'],
    ['an id that is no whole number', '{"e":"trade","E":1,"s":"A","t":1.5,"p":"1","q":"1","T":1,"m":false}'],
    ['an id beyond 64 bits', '{"e":"trade","E":1,"s":"A","t":9223372036854775808,"p":"1","q":"1","T":1,"m":false}'],
    ['no maker flag', '{"e":"trade","E":1,"s":"A","t":1,"p":"1","q":"1","T":1}'],
    ['an object as price', '{"e":"trade","E":1,"s":"A","t":1,"p":{},"q":"1","T":1,"m":true}'],
  ])('a trade frame with %s is unparsable, with a reason', (_what, text) => {
    expect(parse('binance', 'spot', text)).toMatchObject({ kind: 'unparsable', reason: expect.stringContaining('trade frame') });
  });
});

describe('Kraken frames', () => {
  test('a v1 frame gives each of its trades, and equal ones an ordinal', () => {
    const trades = tradesOf(parse('kraken', 'spot', '[321,[["5541.20000","0.15850568","1534614057.321597","s","l",""],["5541.20000","0.15850568","1534614057.321597","s","l",""],["6060.00000","0.02455000","1534614057.324998","b","m",""]],"trade","XBT/USD"]'));
    expect(trades).toEqual([
      { channel_id: 321, price: '5541.20000', volume: '0.15850568', timestamp: '1534614057.321597', side: 's', order_type: 'l', misc: '', pair: 'XBT/USD', ingestion_timestamp: 1680652800004107, market: 'spot', native_id: null, extra: {} },
      { channel_id: 321, price: '5541.20000', volume: '0.15850568', timestamp: '1534614057.321597', side: 's', order_type: 'l', misc: '', pair: 'XBT/USD', ingestion_timestamp: 1680652800004107, market: 'spot', native_id: null, extra: { frame_ordinal: '1' } },
      { channel_id: 321, price: '6060.00000', volume: '0.02455000', timestamp: '1534614057.324998', side: 'b', order_type: 'm', misc: '', pair: 'XBT/USD', ingestion_timestamp: 1680652800004107, market: 'spot', native_id: null, extra: {} },
    ]);
  });

  test('a v2 quantity keeps its trailing zeros, and its time the microseconds', () => {
    const [trade] = tradesOf(parse('kraken', 'spot', '{"channel":"trade","type":"update","data":[{"symbol":"ETH/USD","side":"sell","price":2688.10,"qty":0.01300000,"ord_type":"market","trade_id":66819515,"timestamp":"2026-09-26T18:09:11.775238Z"}]}'));
    expect(trade).toMatchObject({ price: '2688.10', volume: '0.01300000', timestamp: '1790446151.775238', side: 's', order_type: 'm', native_id: '66819515', pair: 'ETH/USD', extra: {} });
  });

  test('a v2 time finer than microseconds is kept whole beside the shortened one', () => {
    const [trade] = tradesOf(parse('kraken', 'spot', '{"channel":"trade","type":"update","data":[{"symbol":"A/B","side":"buy","price":1,"qty":1,"ord_type":"limit","trade_id":1,"timestamp":"2026-09-26T18:09:11.775238999Z"}]}'));
    expect(trade).toMatchObject({ timestamp: '1790446151.775238', extra: { timestamp: '2026-09-26T18:09:11.775238999Z' } });
  });

  test('a futures snapshot gives each of its trades', () => {
    const trades = tradesOf(parse('kraken', 'futures', '{"feed":"trade_snapshot","product_id":"PI_XBTUSD","trades":[{"feed":"trade","product_id":"PI_XBTUSD","uid":"57d30a84-6890-4f5d-9f1b-087d24701ec9","side":"buy","type":"fill","seq":222736,"time":1646472607008,"qty":2519.0,"price":39096.0},{"feed":"trade","product_id":"PI_XBTUSD","uid":"0a265ed2","side":"sell","type":"liquidation","seq":222735,"time":1646472607007,"qty":2.14E+4,"price":39095.5}]}'));
    expect(trades).toHaveLength(2);
    expect(trades[1]).toEqual({
      channel_id: 0, price: '39095.5', volume: '2.14E+4', timestamp: '1646472607.007000', side: 's', order_type: '', misc: '', pair: 'PI_XBTUSD',
      ingestion_timestamp: 1680652800004107, market: 'futures', native_id: '0a265ed2', extra: { type: 'liquidation', seq: '222735' },
    } satisfies KrakenRawTrade);
  });

  test('the answer to a futures subscription has feed trade and is no trade', () => {
    expect(parse('kraken', 'futures', '{"event":"subscribed","feed":"trade","product_ids":["PI_BCHUSD"]}')).toEqual({ kind: 'subscription' });
  });

  test('a refused subscription is counted as an error', () => {
    expect(parse('kraken', 'spot', '{"errorMessage":"Malformed request","event":"subscriptionStatus","status":"error"}')).toEqual({ kind: 'error' });
    expect(parse('kraken', 'spot', '{"method":"subscribe","success":false,"error":"Currency pair not supported"}')).toEqual({ kind: 'error' });
  });

  test.each([
    ['too few fields', '[1,[["1","1"]],"trade","A/B"]'],
    ['no list of trades', '[1,{"a":1},"trade","A/B"]'],
    ['a time that is none', '{"channel":"trade","data":[{"symbol":"A/B","side":"buy","price":1,"qty":1,"ord_type":"limit","trade_id":1,"timestamp":"yesterday"}]}'],
    ['no data', '{"channel":"trade","type":"update"}'],
  ])('a trade frame with %s is unparsable, with a reason', (_what, text) => {
    expect(parse('kraken', 'spot', text)).toMatchObject({ kind: 'unparsable', reason: expect.stringContaining('trade frame') });
  });
});

test.each(['', '{', 'rubbish', '{"a":01}', '{"a":1}}', '"\u0001"', '[1,]', '\u0000\u0001', '{"e":"trade"', '"\\u12', `${'['.repeat(100_000)}`])('a frame that is no JSON is unparsable, never an exception: %j', (text) => {
  for (const exchange of ['binance', 'kraken']) expect(parse(exchange, 'spot', text)).toMatchObject({ kind: 'unparsable', reason: expect.stringContaining('JSON') });
});

test.each(['42', 'null', '"text"', '[]', '{}', '[[]]', '{"stream":"x","data":null}'])('JSON that is no frame of a known kind is counted as other: %j', (text) => {
  for (const exchange of ['binance', 'kraken']) expect(parse(exchange, 'spot', text)).toEqual({ kind: 'other' });
});

const linesOf = <T>(file: string): T[] => readFileSync(join(exchangeData!, file), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as T);

describe.runIf(exchangeData)(`real frames of other captures${unlessAbsent}`, () => {
  test('each frame quoted in public issues is what the issue says it is', () => {
    const expected: Record<string, string> = {
      'bn-zero-1': 'trade', 'bn-err-3': 'error', 'kr1-malformed-req': 'error', 'kr1-substatus-ok': 'subscription', 'cap-kr1-5elem-b-1': 'book',
      'cap-bn-insfund': 'trade', 'cap-kr2-status': 'status', 'cap-kr2-sub': 'subscription', 'cap-kr2-hb': 'heartbeat',
    };
    const found = Object.fromEntries(linesOf<{ id: string; exchange: string; frame: string }>('odd-frames.jsonl').map(({ id, exchange, frame }) => {
      const [name, market = ''] = exchange.split('-');
      return [id, parse(name!, market === 'usdm' ? 'usdm' : 'spot', frame).kind];
    }));
    expect(found).toEqual(expected);
  });

  test('each frame of another parser\'s test set is of its kind', () => {
    const kinds: Record<string, string> = { l2_event: 'book', l2_topk: 'book', l2_snapshot: 'book_snapshot', bbo: 'quote', ticker: 'ticker', candlestick: 'candle', funding_rate: 'mark_price', open_interest: 'open_interest' };
    for (const { exchange, kind, case: market, frame } of linesOf<{ exchange: string; kind: string; case: string; frame: string }>('other-frames.jsonl')) {
      const futures = exchange === 'kraken' ? 'futures' : market.startsWith('linear') ? 'usdm' : 'coinm';
      const found = parse(exchange, market.startsWith('spot') ? 'spot' : futures, frame);
      // Partial books of spot come without an event type, as its snapshots do; lists of options are not in scope.
      const expected = kind === 'trade' ? (market === 'option' ? 'option_trade' : 'trade') : frame.includes('"lastUpdateId"') ? 'book_snapshot' : kinds[kind];
      expect(found.kind, `${exchange} ${kind} ${market}: ${frame.slice(0, 100)}`).toBe(expected);
      const tradeCount = found.kind === 'trade' ? found.trades.length : 0;
      expect(tradeCount).toBe(expected === 'trade' ? frame.match(/"uid"/g)?.length ?? 1 : 0);
    }
  });
});
