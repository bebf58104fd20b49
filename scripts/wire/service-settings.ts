/**
 * How package.json starts a process that runs for long.
 *
 * V8's default lets the young generation of each isolate grow to 48 MB, which these processes have no use for: what they do by the
 * million they do without objects. And it gives collections and compilations four threads, which on few cores spend more
 * time on waiting for each other than they save.
 */
export const serviceNodeArguments = ['--max-semi-space-size=4', '--v8-pool-size=1'] as const;

/**
 * What glibc reads before the process begins. By default it gives each thread an arena of its own, and raises the size from which on memory
 * goes back to the system when it is freed up to 32 MB: column buffers of a few megabytes then stay behind in every arena. Measured
 * on a backlog, 60 to 140 MB of each worker, and one arena in place of two some 10 MB of a Temporal Worker, at the same CPU. Other
 * libraries ignore it.
 *
 * The LZ4 codec brings mimalloc, which keeps what was freed for later: a streaming worker over four million LZ4 records grew to 424 MB
 * with it and to 290 MB without, and took no more CPU.
 */
export const serviceEnvironment = { MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '262144', MALLOC_TRIM_THRESHOLD_: '1048576', MIMALLOC_PURGE_DELAY: '0' } as const;
