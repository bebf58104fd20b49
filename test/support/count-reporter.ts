import { writeFileSync } from 'node:fs';
import type { Reporter, TestModule, TestRunEndReason } from 'vitest/node';

export interface Counts { passed: number; failed: number; skipped: number }

/** Counts every test once; a module or run that broke outside any test counts as one failure. */
export function countTests(modules: readonly TestModule[], unhandledErrors: readonly unknown[], reason: TestRunEndReason): Counts {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const module of modules) {
    for (const test of module.children.allTests()) {
      const { state } = test.result();
      if (state === 'passed') counts.passed += 1;
      else if (state === 'skipped') counts.skipped += 1;
      else counts.failed += 1; // failed, or still pending because the run was cut short
    }
    // A file that does not load, or a hook that throws, belongs to no test and must not look like success.
    const failedSuites = [...module.children.allSuites()].filter((suite) => suite.errors().length > 0).length;
    counts.failed += failedSuites + (module.errors().length > 0 ? 1 : 0);
  }
  counts.failed += unhandledErrors.length;
  if (reason === 'interrupted' && counts.failed === 0) counts.failed = 1;
  return counts;
}

export const countLine = ({ passed, failed, skipped }: Counts): string =>
  `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;

/** Prints the counts as the very last line of stdout, for readers that look for nothing else. */
export default class CountReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[], reason: TestRunEndReason): void {
    const counts = countTests(modules, unhandledErrors, reason);
    const file = process.env['TIDEMARK_TEST_COUNTS_FILE'];
    if (file) {
      // scripts/test.ts adds lint and typecheck to these counts and prints the line itself.
      writeFileSync(file, JSON.stringify(counts));
      return;
    }
    process.once('exit', () => process.stdout.write(`${countLine(counts)}\n`));
  }
}
