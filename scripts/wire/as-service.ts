// Imported by the scripts that run for long, before all else: what has to be set before a process begins is set by beginning
// once more, in place. The process keeps its id, its parent and its pipes. Containers and this project's own scripts set it beforehand.
import { platform } from 'node:os';
import process from 'node:process';
import { serviceEnvironment } from './service-settings.ts';

const isSet = Object.keys(serviceEnvironment).some((name) => process.env[name] !== undefined);
if (platform() === 'linux' && !isSet && typeof process.execve === 'function') {
  process.execve(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], { ...process.env, ...serviceEnvironment });
}
