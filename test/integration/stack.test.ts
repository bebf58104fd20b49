import { expect, inject, test } from 'vitest';

test('every server of the stack answers at its endpoint', async () => {
  const stack = inject('stack');
  expect(stack.kafka.brokers).toHaveLength(1);
  expect((await fetch(`${stack.schemaRegistry.url}/subjects`)).status).toBe(200);
  expect((await fetch(stack.temporal.uiUrl)).status).toBe(200);
  expect((await fetch(stack.s3.endpoint)).status).toBe(403);
});
