# The pipeline's own processes: one image, the command chooses the process. No build step: Node runs the TypeScript as it is.
FROM node:24.21.0-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund

FROM node:24.21.0-bookworm-slim
ENV NODE_ENV=production
ENV MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=262144 MALLOC_TRIM_THRESHOLD_=1048576 MIMALLOC_PURGE_DELAY=0
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY package.json ./
COPY src ./src
COPY activities ./activities
COPY workflows ./workflows
COPY scripts ./scripts
COPY docs/runbooks ./docs/runbooks
USER node
ENTRYPOINT ["node"]
CMD ["--max-semi-space-size=4", "--v8-pool-size=1", "scripts/run-temporal-worker.ts"]
