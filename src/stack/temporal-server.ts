import { join } from 'node:path';
import { endpointVariables } from './endpoints.ts';
import { findOnPath, installOnce, runTool } from './install.ts';
import { bareEnvironment, httpStatus } from './recipe.ts';
import type { ServerRecipe } from './recipe.ts';
import { goInstall, requireTool, serverFolder } from './toolchain.ts';

// Newer tags carry a replace directive, which "go install" refuses.
const version = '1.5.1';
const label = `Temporal dev server ${version}`;
// By itself the dev server forgets a closed workflow after a day: too soon to ask on Monday what happened on Friday.
const retention = '168h';

/** What the Web UI's list can filter by. The dev server has room for three integers. */
export const searchAttributes = {
  TidemarkSource: 'Keyword',
  TidemarkState: 'Keyword',
  TidemarkRows: 'Int',
  TidemarkDlqRows: 'Int',
  TidemarkLagRecords: 'Int',
} as const;

export const temporalServer: ServerRecipe<'temporal'> = {
  name: 'temporal',
  label,
  portCount: 2,

  async install(context) {
    const onPath = await findOnPath('temporal', context.env);
    if (onPath) return { path: onPath };
    const folder = await installOnce(
      serverFolder(context, `temporal-${version}`),
      async (staging) => {
        const go = await requireTool('go', label, endpointVariables.temporal, context.env);
        context.report('installing with go');
        await goInstall(context, go, `github.com/temporalio/cli/cmd/temporal@v${version}`, staging);
      },
      () => context.report('another installation is under way: waiting for it'),
      context.signal,
    );
    return { path: join(folder, 'temporal') };
  },

  async plan({ path }, { env, dataDir, ports: [port, uiPort] }) {
    const address = `127.0.0.1:${port}`;
    const uiUrl = `http://127.0.0.1:${uiPort}`;
    const bare = bareEnvironment(env, dataDir);
    return {
      endpoint: { address, uiUrl },
      launch: {
        name: 'temporal',
        command: path,
        args: [
          'server',
          'start-dev',
          '--headless=false',
          '--log-level=error',
          '--ip=127.0.0.1',
          '--ui-ip=127.0.0.1',
          `--port=${port}`,
          `--ui-port=${uiPort}`,
          `--db-filename=${join(dataDir, 'temporal.db')}`,
          // A write-ahead log without an fsync for each commit: what a killed server wrote is there, and a step costs 15 ms less.
          '--sqlite-pragma=journal_mode=WAL',
          '--sqlite-pragma=synchronous=1',
          ...Object.entries(searchAttributes).flatMap(([name, type]) => ['--search-attribute', `${name}=${type}`]),
        ],
        env: bare,
        logFile: join(dataDir, 'logs', 'temporal.log'),
        isReady: async () => {
          // Asked through the Web UI's server, so that both are known to answer.
          if ((await httpStatus(`${uiUrl}/api/v1/namespaces/default`)) !== 200) return false;
          await runTool(path, ['operator', 'namespace', 'update', '--address', address, '--namespace', 'default', '--retention', retention], { env: bare });
          return true;
        },
      },
    };
  },
};
