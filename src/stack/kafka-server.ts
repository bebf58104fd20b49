import { cp, mkdir, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { archiveFlags, recordClasses } from './class-archive.ts';
import { bareEnvironment } from './recipe.ts';
import type { ServerRecipe } from './recipe.ts';
import { installOnce, runTool } from './install.ts';
import { mavenDependency, mavenProject, requireJava, requireTool, serverFolder } from './toolchain.ts';
import { endpointVariables } from './endpoints.ts';

const version = '4.1.0';
const label = `Apache Kafka ${version}`;
// A fixed id: each stack has its own ports and folder, and a formatted folder can be copied instead of made anew.
const clusterId = 'VGlkZW1hcmtTdGFjazAwMA';
// Kafka logs through slf4j, and its own Maven dependencies bring no binding.
const artifacts = [`org.apache.kafka:kafka_2.13:${version}`, 'org.slf4j:slf4j-simple:1.7.36'];
const loggingFlags = ['-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info'];

export const kafkaServer: ServerRecipe<'kafka'> = {
  name: 'kafka',
  label,
  portCount: 2,

  async install(context) {
    const folder = serverFolder(context, `kafka-2.13-${version}`);
    const java = await requireTool('java', label, endpointVariables.kafka, context.env);
    const path = await installOnce(
      folder,
      async (staging) => {
        await requireJava(label, endpointVariables.kafka, context.env);
        const mvn = await requireTool('mvn', label, endpointVariables.kafka, context.env);
        context.report('installing with Maven');
        const project = join(staging, 'pom.xml');
        await writeFile(project, mavenProject(artifacts));
        await mavenDependency(context, mvn, 'copy-dependencies', ['-f', project, '-DincludeScope=runtime', `-DoutputDirectory=${join(staging, 'lib')}`]);
        const formatted = join(staging, 'formatted');
        const properties = join(staging, 'format.properties');
        await writeFile(properties, serverProperties(formatted, [1, 2]));
        await runTool(java, ['-cp', join(staging, 'lib', '*'), 'kafka.tools.StorageTool', 'format', '-t', clusterId, '-c', properties], { env: context.env, signal: context.signal });
      },
      () => context.report('another installation is under way: waiting for it'),
      context.signal,
    );
    return { path, classArchive: await recordClasses(context, java, path, (launchContext) => this.plan({ path }, launchContext)) };
  },

  async plan({ path, classArchive }, { env, dataDir, ports }) {
    const java = await requireTool('java', label, endpointVariables.kafka, env);
    const logDir = join(dataDir, 'kafka');
    if (!existsSync(join(logDir, 'meta.properties'))) await cp(join(path, 'formatted'), logDir, { recursive: true });
    const properties = join(dataDir, 'kafka.properties');
    await mkdir(dataDir, { recursive: true });
    await writeFile(properties, serverProperties(logDir, ports));
    return {
      endpoint: { brokers: [`127.0.0.1:${ports[0]}`] },
      launch: {
        name: 'kafka',
        command: java,
        // The serial collector: a small heap, and no collector threads beside the pipeline's own on few cores.
        args: ['-Xms96m', '-Xmx384m', '-XX:+UseSerialGC', '-XX:+ExitOnOutOfMemoryError', ...archiveFlags(classArchive), ...loggingFlags, '-cp', join(path, 'lib', '*'), 'kafka.Kafka', properties],
        env: bareEnvironment(env, dataDir),
        logFile: join(dataDir, 'logs', 'kafka.log'),
        isReady: async (log) => (await log()).includes('Kafka Server started'),
      },
    };
  },
};

/** One node that is broker and controller, on loopback only. Topics are made on purpose, never by a stray fetch. */
function serverProperties(logDir: string, [brokerPort, controllerPort]: readonly number[]): string {
  return Object.entries({
    'process.roles': 'broker,controller',
    'node.id': 1,
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    listeners: `PLAINTEXT://127.0.0.1:${brokerPort},CONTROLLER://127.0.0.1:${controllerPort}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${brokerPort}`,
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': 'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
    'inter.broker.listener.name': 'PLAINTEXT',
    'log.dirs': logDir.replaceAll('\\', '\\\\'),
    'auto.create.topics.enable': false,
    'num.partitions': 3,
    'offsets.topic.replication.factor': 1,
    'offsets.topic.num.partitions': 4,
    'transaction.state.log.replication.factor': 1,
    'transaction.state.log.min.isr': 1,
    'transaction.state.log.num.partitions': 2,
    'share.coordinator.state.topic.replication.factor': 1,
    'share.coordinator.state.topic.min.isr': 1,
    // A lone consumer need not wait for others, and tests may ask for short sessions.
    'group.initial.rebalance.delay.ms': 0,
    'group.min.session.timeout.ms': 1_000,
    // Retention and compaction act within seconds, so that tests and the demo can show what they do.
    'log.retention.check.interval.ms': 2_000,
    'log.initial.task.delay.ms': 1_000,
    'log.cleaner.backoff.ms': 2_000,
    'log.segment.delete.delay.ms': 2_000,
    // After a kill the broker is let in again only when its old session has run out: 9 s by default.
    'broker.session.timeout.ms': 4_000,
    'broker.heartbeat.interval.ms': 500,
    // The default asks for 128 MB of a heap that is three times that.
    'log.cleaner.dedupe.buffer.size': 16 * 1024 * 1024,
    'num.network.threads': 2,
    'num.io.threads': 4,
  })
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');
}
