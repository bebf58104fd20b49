import { isCodedColumn, isPackedColumn, type EncodableBatch, type EncodableColumn } from './columns.ts';

/** Memory below this is not worth a thought; Node's buffer pool, which many share, is smaller too. */
const releaseBytesMin = Math.max(128 << 10, 2 * Buffer.poolSize);
/** A view that leaves out no more than this of its buffer has it for itself: a fetched page still has its header, which takes more. */
const sharedBytesMax = 8;

/**
 * Gives the memory behind a view back at once. For megabytes that are held for some milliseconds only: typed arrays lie outside of V8's
 * heap, where an allocation of a few ten megabytes makes it mark all of the heap, so that what is left to the garbage collector costs
 * both memory and CPU. Nobody may look at the buffer afterwards: its views are empty then. Views of a buffer that holds other things
 * too are left alone.
 */
export const release = (view: ArrayBufferView | undefined): void => {
  if (!view) return;
  const { buffer } = view;
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength < releaseBytesMin || buffer.byteLength - view.byteLength > sharedBytesMax) return;
  releaseBuffer(buffer);
};

/** As {@link release}, whatever part of it is in use. */
export const releaseBuffer = (buffer: ArrayBufferLike): void => {
  if (buffer instanceof ArrayBuffer && buffer.byteLength >= releaseBytesMin) buffer.transfer(0);
};

const viewsOf = (column: EncodableColumn): ArrayBufferView[] => {
  if (ArrayBuffer.isView(column)) return [column];
  if (isPackedColumn(column)) return [column.packed, column.positions];
  return isCodedColumn(column) ? [column.codes] : [];
};

/** {@link release} of what a column holds. */
export const releaseColumn = (column: EncodableColumn): void => {
  for (const view of viewsOf(column)) release(view);
};

/** {@link release} of what the columns of a batch hold. */
export const releaseColumns = (columns: EncodableBatch['columns']): void => {
  for (const column of Object.values(columns)) releaseColumn(column);
};

/** Of columns that were filled by the caller, so that nothing else lies in their buffers. */
export const releaseOwnColumns = ({ columns }: EncodableBatch): void => {
  for (const column of Object.values(columns)) for (const { buffer } of viewsOf(column)) releaseBuffer(buffer);
};
