import { afterEach, expect, test } from 'vitest';
import type { Collector } from '../../src/page/collect.ts';
import { addPageRoutes } from '../../src/page/routes.ts';
import type { StreamControls } from '../../src/page/routes.ts';
import { startHttpServer } from '../../src/telemetry/http-server.ts';
import { pageSnapshot } from './page-data.ts';

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

const serve = async ({ controls = null, collector }: { controls?: StreamControls | null; collector?: Partial<Collector> } = {}) => {
  const failures: unknown[] = [];
  const http = await startHttpServer({ host: '127.0.0.1', port: 0, onError: (error) => failures.push(error) });
  const stop = new AbortController();
  let looks = 0;
  const { done } = addPageRoutes(http, {
    controls, signal: stop.signal, watchedEveryMs: 10, idleEveryMs: 3_600_000, onFailure: (error) => failures.push(error),
    collector: { look: () => Promise.resolve(pageSnapshot({ atMs: looks += 1 })), history: () => ({ stepMs: 1, points: {} }), ...collector },
  });
  ends.push(async () => {
    stop.abort();
    await done;
    await http.close();
  });
  return { url: http.url, failures, looks: () => looks };
};

/** Frames of a stream of server-sent events, until `enough`. */
const readEvents = async (url: string, enough: (events: { event: string; data: unknown }[]) => boolean): Promise<{ event: string; data: unknown }[]> => {
  const leave = new AbortController();
  const response = await fetch(`${url}/events`, { signal: leave.signal });
  expect(response.headers.get('content-type')).toContain('text/event-stream');
  const events: { event: string; data: unknown }[] = [];
  let text = '';
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const frames = text.split('\n\n');
    text = frames.pop()!;
    for (const frame of frames) {
      const match = /^event: (.*)\ndata: (.*)$/.exec(frame);
      if (match) events.push({ event: match[1]!, data: JSON.parse(match[2]!) as unknown });
    }
    if (enough(events)) break;
  }
  leave.abort();
  return events;
};

test('the page and its files come with a policy that lets nothing in from outside, and name nothing outside', async () => {
  const { url } = await serve();
  const page = await fetch(`${url}/`);
  const html = await page.text();
  const policy = page.headers.get('content-security-policy')!;
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain("frame-ancestors 'none'");
  expect(policy).not.toMatch(/unsafe|https?:|\*/);
  const paths = [...html.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map((match) => match[1]!);
  expect(paths.length).toBeGreaterThan(2);
  for (const path of [...paths, '/elements.js', '/charts.js']) {
    const file = await fetch(`${url}${path}`);
    expect(file.status, path).toBe(200);
    expect((await file.text()).replaceAll('http://www.w3.org/', ''), path).not.toMatch(/https?:\/\//);
  }
  expect(html.replaceAll('http://www.w3.org/', '')).not.toMatch(/https?:\/\/| style=| on[a-z]+=/);
});

test('whoever looks gets the present at once and what follows without asking, also when he comes back', async () => {
  const { url, looks } = await serve();
  const events = await readEvents(url, (seen) => seen.filter(({ event }) => event === 'snapshot').length >= 4);
  const times = events.filter(({ event }) => event === 'snapshot').map(({ data }) => (data as { atMs: number }).atMs);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  expect(events.some(({ event }) => event === 'history')).toBe(true);
  // It waits for an hour then, unless somebody comes back.
  const before = looks();
  await readEvents(url, (seen) => seen.length >= 4);
  expect(looks()).toBeGreaterThan(before);
});

test('a look that fails is reported and does not end the page', async () => {
  let fails = true;
  const { url, failures } = await serve({ collector: { look: () => fails ? Promise.reject(new Error('the lake is away')) : Promise.resolve(pageSnapshot()) } });
  expect((await fetch(`${url}/api/page`)).status).toBe(500);
  fails = false;
  expect(await (await fetch(`${url}/api/page`)).json()).toMatchObject({ snapshot: { namespace: 'n' } });
  expect(failures.map(String)).toContain('Error: the lake is away');
});

test('without a token nothing can be changed', async () => {
  const { url } = await serve();
  expect((await fetch(`${url}/api/streams/a-trades/pause`, { method: 'POST' })).status).toBe(404);
});

test('a stream is steered with the token in a header alone, from the page\'s own origin', async () => {
  const sent: string[] = [];
  const token = 'a-token-of-sixteen';
  const { url } = await serve({ controls: { token, sources: ['a-trades'], send: (source, action) => Promise.resolve(void sent.push(`${source} ${action}`)) } });
  const post = async (path: string, headers: Record<string, string>): Promise<number> => (await fetch(`${url}/api/streams/${path}`, { method: 'POST', headers })).status;
  const authorization = `Bearer ${token}`;
  expect(await post('a-trades/pause', {})).toBe(403);
  expect(await post('a-trades/pause', { authorization: 'Bearer a-token-of-sixteeN' })).toBe(403);
  expect(await post('a-trades/pause', { cookie: `token=${token}` })).toBe(403);
  expect(await post('a-trades/pause', { authorization, 'sec-fetch-site': 'cross-site' })).toBe(403);
  expect(await post('other/pause', { authorization })).toBe(404);
  expect(await post('a-trades/drop', { authorization })).toBe(404);
  expect(sent).toEqual([]);
  expect((await fetch(`${url}/api/streams/a-trades/pause`, { headers: { authorization } })).status).toBe(405);
  expect(await post('a-trades/pause', { authorization, 'sec-fetch-site': 'same-origin' })).toBe(200);
  expect(await post('a-trades/resume', { authorization })).toBe(200);
  expect(sent).toEqual(['a-trades pause', 'a-trades resume']);
});
