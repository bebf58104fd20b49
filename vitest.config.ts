import { defineConfig } from 'vitest/config';

const realServers = ['test/integration/**/*.test.ts', 'test/faults/**/*.test.ts', 'test/workflows/integration/**/*.test.ts'];

export default defineConfig({
  test: {
    pool: 'forks',
    reporters: ['default', './test/support/count-reporter.ts'],
    projects: [
      {
        test: {
          name: 'unit',
          pool: 'forks',
          include: ['test/**/*.test.ts'],
          exclude: realServers,
          testTimeout: 30_000,
          hookTimeout: 30_000,
        },
      },
      {
        test: {
          name: 'integration',
          pool: 'forks',
          include: realServers,
          globalSetup: ['test/support/global-setup.ts'],
          // Four real servers share the machine with the tests: more files at once only make them time out.
          maxWorkers: 2,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
