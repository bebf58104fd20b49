import { access, constants } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright-core';
import type { Browser } from 'playwright-core';
import { installOnce } from '../../src/stack/index.ts';

const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

const isExecutable = (path: string): Promise<boolean> => access(path, constants.X_OK).then(() => true, () => false);

/** The browser of the machine; CHROMIUM_PATH names another one. */
const installedChromium = async (): Promise<string | null> => {
  const named = process.env['CHROMIUM_PATH'];
  if (named) return named;
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    for (const name of names) if (await isExecutable(join(folder, name))) return join(folder, name);
  }
  return null;
};

/**
 * A headless Chromium: that of the machine, else the one that comes as an npm package (Linux on x64). Null with the cause where
 * neither can run. Close it.
 */
export const launchBrowser = async (): Promise<{ browser: Browser } | { browser: null; cause: string }> => {
  const installed = await installedChromium();
  try {
    if (installed) return { browser: await chromium.launch({ executablePath: installed, args: ['--no-sandbox', '--disable-dev-shm-usage'] }) };
    const { default: packaged } = await import('@sparticuz/chromium');
    // It takes whatever lies in the temporary folder for unpacked, also what another test file is unpacking just now.
    await installOnce(join(tmpdir(), 'tidemark-chromium-unpacked'), async () => { await packaged.executablePath(); }, () => {});
    // In a single process the whole browser ends with the first page that is closed.
    const args = packaged.args.filter((argument) => argument !== '--single-process');
    return { browser: await chromium.launch({ executablePath: await packaged.executablePath(), args: [...args, '--disable-dev-shm-usage'] }) };
  } catch (error) {
    return { browser: null, cause: `no Chromium that runs: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}` };
  }
};
