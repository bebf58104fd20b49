import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { archiveFlags, recordClasses } from './class-archive.ts';
import { endpointVariables } from './endpoints.ts';
import { installOnce } from './install.ts';
import { bareEnvironment, httpStatus } from './recipe.ts';
import type { ServerRecipe } from './recipe.ts';
import { mavenDependency, mavenProject, requireJava, requireTool, serverFolder } from './toolchain.ts';

const version = '2.6.13.Final';
const label = `Apicurio Registry ${version}`;

export const schemaRegistryServer: ServerRecipe<'schemaRegistry'> = {
  name: 'schemaRegistry',
  label,
  portCount: 1,

  async install(context) {
    const java = await requireTool('java', label, endpointVariables.schemaRegistry, context.env);
    const path = await installOnce(
      serverFolder(context, `apicurio-registry-${version}`),
      async (staging) => {
        await requireJava(label, endpointVariables.schemaRegistry, context.env);
        const mvn = await requireTool('mvn', label, endpointVariables.schemaRegistry, context.env);
        context.report('installing with Maven (140 MB)');
        // The plugin leaves its marker files in the folder of the project: without one, in the working directory.
        const project = join(staging, 'pom.xml');
        await writeFile(project, mavenProject([]));
        await mavenDependency(context, mvn, 'unpack', ['-f', project, `-Dartifact=io.apicurio:apicurio-registry-app:${version}:tar.gz:all`, `-DoutputDirectory=${staging}`]);
      },
      () => context.report('another installation is under way: waiting for it'),
      context.signal,
    );
    return { path, classArchive: await recordClasses(context, java, path, (launchContext) => this.plan({ path }, launchContext)) };
  },

  async plan({ path, classArchive }, { env, dataDir, ports: [port] }) {
    const java = await requireTool('java', label, endpointVariables.schemaRegistry, env);
    const data = join(dataDir, 'schema-registry');
    await mkdir(data, { recursive: true });
    const url = `http://127.0.0.1:${port}/apis/ccompat/v7`;
    return {
      endpoint: { url },
      launch: {
        name: 'schemaRegistry',
        command: java,
        args: ['-Xmx192m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-XX:+ExitOnOutOfMemoryError', ...archiveFlags(classArchive), '-jar', join(path, `apicurio-registry-app-${version}-runner.jar`)],
        env: {
          ...bareEnvironment(env, dataDir),
          HTTP_PORT: String(port),
          QUARKUS_HTTP_HOST: '127.0.0.1',
          // This edition keeps its schemas in an H2 database in memory; in a file they survive a restart. H2 by itself
          // writes half a second late, so a schema that was answered for could be lost.
          REGISTRY_DATASOURCE_URL: `jdbc:h2:file:${join(data, 'registry')};WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE`,
          QUARKUS_DATASOURCE_JDBC_INITIAL_SIZE: '1',
          QUARKUS_DATASOURCE_JDBC_MIN_SIZE: '1',
          QUARKUS_DATASOURCE_JDBC_MAX_SIZE: '8',
          REGISTRY_LOG_LEVEL: 'WARN',
          LOG_LEVEL: 'WARN',
        },
        logFile: join(dataDir, 'logs', 'schema-registry.log'),
        isReady: async () => (await httpStatus(`${url}/subjects`)) === 200,
      },
    };
  },
};
