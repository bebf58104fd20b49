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
          setupFiles: ['test/support/seed.ts'],
          testTimeout: 30_000,
          hookTimeout: 30_000,
        },
      },
      {
        test: {
          name: 'integration',
          pool: 'forks',
          include: realServers,
          setupFiles: ['test/support/seed.ts'],
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
