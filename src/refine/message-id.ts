import { hash } from 'node:crypto';

/** Namespace of message ids (RFC 9562, section 5.5). Never changes: ids of rows that were written would. */
export const messageIdNamespace = 'b1f5c1de-8a4e-5d0c-9b7e-2f6a3c9d4e10';

const namespaceBytes = Buffer.from(messageIdNamespace.replaceAll('-', ''), 'hex');
const variantDigits = '89ab';

/**
 * Message ids of one topic partition: UUIDv5 of the name `<topic>/<partition>/<offset>` in {@link messageIdNamespace}.
 * The prefix is written once; an id then costs one hash of one or two blocks.
 */
export const messageIdsOf = (topic: string, partition: number): ((offset: number | bigint) => string) => {
  const prefix = Buffer.from(`${topic}/${partition}/`, 'utf8');
  const start = namespaceBytes.length + prefix.length;
  const name = Buffer.alloc(start + 20);
  namespaceBytes.copy(name);
  prefix.copy(name, namespaceBytes.length);
  return (offset) => {
    const end = start + name.write(String(offset), start, 'latin1');
    const hex = hash('sha1', name.subarray(0, end), 'hex');
    const variant = variantDigits[Number.parseInt(hex[16]!, 16) & 3]!;
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
  };
};
