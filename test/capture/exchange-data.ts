import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const beside = join(dirname(fileURLToPath(import.meta.url)), '../../../shared/data');

/** The folder of real exchange frames beside the project, where it is there. */
export const exchangeData: string | undefined = existsSync(join(beside, 'TRUTH.json')) ? beside : undefined;
export const exchangeDataAbsent = 'the real exchange frames (../shared/data) are not here';
