declare module 'kafkajs/src/protocol/requests/produce/v7/request.js' {
  interface ProduceRequestV7 {
    acks: number;
    timeout: number;
    compression: number;
    topicData: { topic: string; partitions: { partition: number; firstSequence: number; messages: readonly unknown[] }[] }[];
  }
  const produceRequest: (request: ProduceRequestV7) => { encode(): Promise<{ buffer: Buffer }> };
  export default produceRequest;
}
