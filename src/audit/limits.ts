const MiB = 1024 * 1024;

/** Bits of offsets and keys of Gold, together; what does not fit takes more passes. */
export const memoryBudgetBytesDefault = 128 * MiB;
