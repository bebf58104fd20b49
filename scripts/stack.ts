import '../src/config/require-node.ts';
import { endpointEnvironment, ensureInstalled, serverNames, startStack } from '../src/stack/index.ts';
import type { Stack, StackEvent } from '../src/stack/index.ts';
import { command, exitFailed, exitOk, runCommand, stopSignal, table, untilStopped } from './cli.ts';

interface Options { json?: true; dataDir?: string; installOnly?: true }

const program = command('stack', 'Start Temporal, Kafka, an S3 server and a schema registry on this machine, print where they answer, and stop them on Ctrl-C.')
  .option('--json', 'Print the endpoints as one line of JSON')
  .option('--data-dir <folder>', 'Keep the servers\' data and logs in this folder (default: a temporary one, removed at the end)')
  .option('--install-only', 'Install the servers into the cache and end');

const showProgress = ({ server, step, message }: StackEvent): void => void process.stderr.write(`${server.padEnd(14)} ${step.padEnd(10)} ${message}\n`);

await runCommand<Options>(program, async (options) => {
  const signal = stopSignal();
  try {
    if (options.installOnly) {
      await ensureInstalled({ signal, onProgress: showProgress });
      process.stderr.write('all servers are installed\n');
      return exitOk;
    }
    // Resolves with the server that ended by itself, if one does.
    const { promise: death, resolve: onDeath } = Promise.withResolvers<StackEvent>();
    const stack = await startStack({
      signal,
      ...(options.dataDir === undefined ? {} : { dataDir: options.dataDir }),
      onProgress: (event) => {
        showProgress(event);
        if (event.step === 'died') onDeath(event);
      },
    });
    try {
      process.stdout.write(options.json ? `${JSON.stringify(asJson(stack))}\n` : describeStack(stack));
      const over = new AbortController();
      const ended = await Promise.race([untilStopped(AbortSignal.any([signal, over.signal])), death]);
      over.abort();
      if (ended) process.stderr.write(`${ended.server} ${ended.message}; its log is ${stack.servers[ended.server].logFile}\n`);
      return ended ? exitFailed : exitOk;
    } finally {
      await stack.stop();
    }
  } catch (error) {
    if (signal.aborted) return exitOk; // stopped while starting: that is what was asked for
    throw error;
  }
});

/** The endpoints, where the data lies, and the process ids of the servers that were started here. */
function asJson(stack: Stack): object {
  return { ...stack.endpoints, dataDir: stack.dataDir, pids: Object.values(stack.servers).flatMap(({ pid }) => pid ?? []) };
}

function describeStack(stack: Stack): string {
  const { kafka, temporal, s3, schemaRegistry } = stack.endpoints;
  const rows: [string, string][] = [
    ['Kafka', kafka.brokers.join(',')],
    ['Temporal', temporal.address],
    ...(temporal.uiUrl ? [['Temporal Web UI', temporal.uiUrl] as [string, string]] : []),
    ['S3', `${s3.endpoint} (region ${s3.region})`],
    ['Schema registry', schemaRegistry.url],
  ];
  const external = serverNames.filter((name) => stack.servers[name].external);
  // The keys of somebody else's store are not ours to show.
  const exported = Object.entries(endpointEnvironment(stack.endpoints)).filter(([name]) => !(stack.servers.s3.external && name.startsWith('AWS_')));
  return [
    '',
    table(['server', 'endpoint'], rows),
    ...(external.length > 0 ? ['', `Named by the environment, not started here: ${external.join(', ')}.`] : []),
    '',
    'To reach them from another shell:',
    ...exported.map(([name, value]) => `export ${name}=${quoted(value)}`),
    '',
    `Data and logs: ${stack.dataDir}`,
    'Ctrl-C stops them all.',
    '',
  ].join('\n');
}

/** As one word of a POSIX shell. */
function quoted(value: string): string {
  return /^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}
