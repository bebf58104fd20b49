import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { endpointVariables } from './endpoints.ts';
import { findOnPath, installOnce } from './install.ts';
import { bareEnvironment, httpStatus } from './recipe.ts';
import type { ServerRecipe } from './recipe.ts';
import { goInstall, requireTool, serverFolder } from './toolchain.ts';

const version = '1.8.0';
const label = `Versity S3 Gateway ${version}`;
const region = 'us-east-1';
const withoutXattr = /xattrs are not supported/i;

export const s3Server: ServerRecipe<'s3'> = {
  name: 's3',
  label,
  portCount: 1,

  async install(context) {
    const onPath = await findOnPath('versitygw', context.env);
    if (onPath) return { path: onPath };
    const folder = await installOnce(
      serverFolder(context, `versitygw-${version}`),
      async (staging) => {
        const go = await requireTool('go', label, endpointVariables.s3, context.env);
        context.report('installing with go');
        await goInstall(context, go, `github.com/versity/versitygw/cmd/versitygw@v${version}`, staging);
      },
      () => context.report('another installation is under way: waiting for it'),
      context.signal,
    );
    return { path: join(folder, 'versitygw') };
  },

  async plan({ path }, { env, dataDir, ports: [port], previousFailure }) {
    const objects = join(dataDir, 's3');
    await mkdir(objects, { recursive: true });
    const metadata: string[] = [];
    if (previousFailure && withoutXattr.test(previousFailure)) {
      // This file system keeps no extended attributes: metadata goes to files beside the objects.
      const sidecar = join(dataDir, 's3-metadata');
      await mkdir(sidecar, { recursive: true });
      metadata.push('--sidecar', sidecar);
    }
    const endpoint = `http://127.0.0.1:${port}`;
    const accessKeyId = `tidemark${randomBytes(6).toString('hex')}`;
    const secretAccessKey = randomBytes(24).toString('base64url');
    return {
      endpoint: { endpoint, region, accessKeyId, secretAccessKey },
      launch: {
        name: 's3',
        command: path,
        // No --keep-alive: after an upload with a chunked body this version takes what is left of it for the next request.
        args: ['--port', `127.0.0.1:${port}`, '--region', region, '--quiet', 'posix', ...metadata, objects],
        // Through the environment: arguments are there for every user of the machine to read.
        env: { ...bareEnvironment(env, dataDir), ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
        logFile: join(dataDir, 'logs', 's3.log'),
        isReady: async () => (await httpStatus(endpoint)) === 403, // an unsigned request is refused: the gateway is at work
      },
    };
  },
};

/** A failure of the gateway that another plan avoids. */
export const isMissingXattr = (failure: string): boolean => withoutXattr.test(failure);
