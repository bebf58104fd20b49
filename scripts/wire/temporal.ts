import { Connection } from '@temporalio/client';
import { isGrpcServiceError } from '@temporalio/client';
import { searchAttributes } from '../../src/contracts/visibility.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { Config } from '../../src/config/config.ts';
import type { Logger } from '../../src/telemetry/logger.ts';

/** gRPC status codes (grpc.io, "Status codes and their use"). */
const alreadyExists = 6;
/** temporal.api.enums.v1.IndexedValueType. */
const indexedValueType = { KEYWORD: 2, INT: 3 } as const;
const namespaceRetentionDays = 30;

export const connectTemporal = async (config: Config): Promise<Connection> => {
  try {
    return await Connection.connect({ address: config.temporal.address, connectTimeout: '10s' });
  } catch (error) {
    throw new TidemarkError('TEMPORAL_UNAVAILABLE', `Temporal at ${config.temporal.address}: expected a frontend, found none that answers`, { cause: error });
  }
};

const isCode = (error: unknown, code: number): boolean => isGrpcServiceError(error) && Number(error.code) === code;

/**
 * Registers the namespace and the search attributes unless they are there. A server that refuses (a managed one, where
 * an administrator does this) gets a warning, and the Workflows run without the attributes failing only if they are missing.
 */
export const prepareNamespace = async (connection: Connection, config: Config, log: Logger): Promise<void> => {
  const { namespace } = config.temporal;
  try {
    await connection.workflowService.registerNamespace({
      namespace,
      description: 'Tidemark',
      workflowExecutionRetentionPeriod: { seconds: namespaceRetentionDays * 86_400 as never },
    });
  } catch (error) {
    if (!isCode(error, alreadyExists)) log.warn({ err: error, namespace }, 'the namespace could not be registered');
  }
  const wanted = Object.values(searchAttributes);
  const deadline = Date.now() + 30_000;
  for (;;) {
    try {
      const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
      const missing = wanted.filter(({ name }) => !(name in customAttributes));
      if (missing.length === 0) return;
      await connection.operatorService.addSearchAttributes({
        namespace,
        searchAttributes: Object.fromEntries(missing.map(({ name, type }) => [name, indexedValueType[type]])),
      });
    } catch (error) {
      if (isCode(error, alreadyExists)) return;
      // A namespace takes some seconds until every part of the server knows it.
      if (Date.now() > deadline) {
        log.warn({ err: error, namespace }, 'the search attributes could not be registered');
        return;
      }
    }
    await new Promise((wake) => setTimeout(wake, 200));
  }
};
