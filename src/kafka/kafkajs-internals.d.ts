// The one file of kafkajs that is not part of its public interface; kafkajs is pinned to an exact version, and a test
// against a real broker reads through it.
declare module 'kafkajs/src/protocol/requests/fetch/v11/request.js' {
  interface FetchRequestV11 {
    replicaId: number;
    maxWaitTime: number;
    minBytes: number;
    maxBytes: number;
    isolationLevel: number;
    topics: { topic: string; partitions: { partition: number; fetchOffset: string; maxBytes: number }[] }[];
  }
  const fetchRequest: (request: FetchRequestV11) => { apiKey: number; apiVersion: number; apiName: string; encode(): Promise<unknown> };
  export default fetchRequest;
}
