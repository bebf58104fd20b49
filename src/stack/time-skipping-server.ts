import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { installOnce } from './install.ts';
import { mavenDependency, mavenProject, requireJava, requireTool, serverFolder } from './toolchain.ts';

const version = '1.31.0';
const label = `Temporal time-skipping test server ${version}`;

/**
 * Path of an executable that runs Temporal's time-skipping test server, installed into the cache if it is not there: the
 * `existing-path` of `TestWorkflowEnvironment.createTimeSkipping`, which would download one otherwise.
 */
export async function installTimeSkippingServer(env: NodeJS.ProcessEnv = process.env, report: (message: string) => void = () => {}): Promise<string> {
  const context = { env, report };
  const folder = await installOnce(
    serverFolder(context, `temporal-test-server-${version}`),
    async (staging) => {
      const java = await requireJava(label, 'no variable (it has no other source)', env);
      const mvn = await requireTool('mvn', label, 'no variable (it has no other source)', env);
      report(`${label}: installing with Maven`);
      const project = join(staging, 'pom.xml');
      await writeFile(project, mavenProject([`io.temporal:temporal-test-server:${version}`]));
      await mavenDependency(context, mvn, 'copy-dependencies', ['-f', project, '-DincludeScope=runtime', `-DoutputDirectory=${join(staging, 'lib')}`]);
      const script = join(staging, 'temporal-test-server');
      await writeFile(script, `#!/bin/sh\nexec "${java}" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$(dirname "$0")/lib/*" io.temporal.testserver.TestServer "$@"\n`);
      await chmod(script, 0o755);
    },
    () => report(`${label}: another installation is under way: waiting for it`),
  );
  return join(folder, 'temporal-test-server');
}
