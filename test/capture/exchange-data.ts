import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const beside = join(dirname(fileURLToPath(import.meta.url)), '../../../shared/data');

/** The folder of real exchange frames beside the project, where it is there. */
export const exchangeData: string | undefined = existsSync(join(beside, 'TRUTH.json')) ? beside : undefined;
/** Put behind the title of what needs the folder, so that a run without it says what it left out. */
export const unlessAbsent = exchangeData ? '' : ' (left out: the real exchange frames of ../shared/data are not here)';
