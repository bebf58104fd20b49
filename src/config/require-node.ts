// Imported first by every script. Older versions lack what the pipeline is built on: zstd, and running TypeScript as it is.
import process from 'node:process';

const nodeMajorMin = 24;

if (Number(process.versions.node.split('.')[0]) < nodeMajorMin) {
  process.stderr.write(
    `Tidemark needs Node ${nodeMajorMin} or newer, and this is Node ${process.versions.node}. Run scripts with "npm run": it puts the right version, installed by "npm install", first on the PATH.\n`,
  );
  process.exit(2);
}
