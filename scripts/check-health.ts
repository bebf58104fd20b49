import '../src/config/require-node.ts';
import { createConnection } from 'node:net';
import { loadConfig } from '../src/config/config.ts';
import { command, exitFailed, exitOk, runCommand } from './cli.ts';

const connectTimeoutMs = 3_000;

const program = command('check-health', 'Tell whether the servers that the environment names can be reached: exits 0 if all can, 1 if not. For health checks of containers.');

await runCommand(program, async () => {
  const { kafka, schemaRegistry, temporal, s3 } = loadConfig();
  const servers: [name: string, address: string][] = [
    ...kafka.brokers.map((broker) => ['Kafka', broker] as [string, string]),
    ['Temporal', temporal.address],
    ['schema registry', hostAndPort(schemaRegistry.url)],
    ...(s3.endpoint === undefined ? [] : [['S3', hostAndPort(s3.endpoint)] as [string, string]]),
  ];
  const failures = (await Promise.all(servers.map(([name, address]) => connectFailure(name, address)))).filter((failure) => failure !== undefined);
  for (const failure of failures) process.stderr.write(`${failure}\n`);
  return failures.length === 0 ? exitOk : exitFailed;
});

function hostAndPort(url: string): string {
  const { hostname, port, protocol } = new URL(url);
  return `${hostname}:${port || (protocol === 'https:' ? 443 : 80)}`;
}

function connectFailure(name: string, address: string): Promise<string | undefined> {
  const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(address) ?? [];
  return new Promise((resolve) => {
    const socket = createConnection({ host: host.replace(/^\[|\]$/g, ''), port: Number(port), timeout: connectTimeoutMs });
    const end = (failure?: string): void => {
      socket.destroy();
      resolve(failure && `${name} at ${address}: ${failure}`);
    };
    socket.once('connect', () => end());
    socket.once('timeout', () => end(`no connection within ${connectTimeoutMs / 1000} s`));
    socket.once('error', (error) => end(error.message));
  });
}
