/**
 * Nothing that crosses Temporal is larger than this, whatever the number of topic partitions: lists are cut into pages,
 * taken in turns, or left in the lake.
 */
export const payloadBytesMax = 64 * 1024;

/** UTF-8 bytes of a text; the Workflow sandbox has no Buffer. */
const utf8Bytes = (text: string): number => {
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return bytes;
};

export const jsonBytes = (value: unknown): number => utf8Bytes(JSON.stringify(value) ?? '');

/** As many of the first entries as fit into `bytesMax` bytes of JSON: at least one, so that work goes on. */
export const firstWithin = <T>(list: Iterable<T>, bytesMax: number): T[] => {
  const taken: T[] = [];
  let bytes = 2;
  for (const entry of list) {
    bytes += jsonBytes(entry) + 1;
    if (bytes > bytesMax && taken.length > 0) break;
    taken.push(entry);
  }
  return taken;
};
