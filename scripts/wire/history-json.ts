import { createRequire } from 'node:module';
import type { WorkflowHandle } from '@temporalio/client';

export type History = Awaited<ReturnType<WorkflowHandle['fetchHistory']>>;

/** A history as the Web UI and `temporal workflow show --output json` write it. */
export interface HistoryJson {
  events: Record<string, unknown>[];
}

// The SDK's historyToJSON and historyFromJSON fail where npm gives @temporalio/common another copy of protobufjs than
// @temporalio/proto, which happens as soon as another package needs an older one ("type must be a Type"). So here both
// the messages and the conversion are those of @temporalio/proto.
interface ProtoJson {
  toJson(type: unknown, message: unknown): HistoryJson;
  fromJson(type: unknown, json: HistoryJson, options: { ignoreUnknownFields: boolean }): History;
}
interface ProtoRoot {
  lookupType(name: string): { fromObject(message: History): unknown };
}
const requireSdk = createRequire(createRequire(import.meta.url).resolve('@temporalio/common'));
const requireProto = createRequire(requireSdk.resolve('@temporalio/proto'));
const protoJson = requireProto('protobufjs/ext/protojson') as ProtoJson;
const { patchProtobufRoot } = requireSdk('@temporalio/proto/lib/patch-protobuf-root') as { patchProtobufRoot(root: unknown): ProtoRoot };
const historyType = patchProtobufRoot(requireSdk('@temporalio/proto')).lookupType('temporal.api.history.v1.History');

export const historyToJson = (history: History): HistoryJson => protoJson.toJson(historyType, historyType.fromObject(history));
export const historyFromJson = (json: HistoryJson): History => protoJson.fromJson(historyType, json, { ignoreUnknownFields: true });
