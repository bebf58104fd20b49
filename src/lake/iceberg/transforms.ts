import type { PrimitiveType, Transform } from '../schema.ts';
import type { SingleValue } from './single-value.ts';

const microsPerHour = 3_600_000_000n;
const microsPerDay = 86_400_000_000n;

/** BigInt division truncates; partitions of times before 1970 need the floor. */
export const floorDiv = (value: bigint, divisor: bigint): bigint => {
  const quotient = value / divisor;
  return value % divisor < 0n ? quotient - 1n : quotient;
};

/** Days since the epoch of a time in µs. */
export const dayOf = (micros: bigint): number => Number(floorDiv(micros, microsPerDay));
/** Hours since the epoch of a time in µs. */
export const hourOf = (micros: bigint): number => Number(floorDiv(micros, microsPerHour));

/** The partition value of a source value; null stays null. Dates are days, timestamps µs. */
export function applyTransform(transform: Transform, sourceType: PrimitiveType, value: SingleValue | null): SingleValue | null {
  if (value === null || transform === 'identity') return value;
  if (sourceType === 'date') return transform === 'day' ? value : Number(value) * 24;
  return transform === 'day' ? dayOf(value as bigint) : hourOf(value as bigint);
}

/** The type that manifests give the partition value. Iceberg writes days as dates. */
export const transformResultType = (transform: Transform, sourceType: PrimitiveType): PrimitiveType => {
  if (transform === 'identity') return sourceType;
  return transform === 'day' ? 'date' : 'int';
};
