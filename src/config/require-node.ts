// Imported first by every script. Older versions lack what the pipeline is built on: zstd, and running TypeScript as it is.
import module from 'node:module';
import process from 'node:process';

const nodeMajorMin = 24;

if (Number(process.versions.node.split('.')[0]) < nodeMajorMin) {
  process.stderr.write(
    `Tidemark needs Node ${nodeMajorMin} or newer, and this is Node ${process.versions.node}. Run scripts with "npm run": it puts the right version, installed by "npm install", first on the PATH.\n`,
  );
  process.exit(2);
}

// Loading the modules costs a process, and each of its threads, half a second of CPU; compiled code that is kept costs a
// third of it. Threads and child processes find the folder in the environment.
const { directory } = module.enableCompileCache();
if (directory !== undefined) process.env['NODE_COMPILE_CACHE'] ??= directory;
