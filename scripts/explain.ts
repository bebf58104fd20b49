#!/usr/bin/env node
import '../src/config/require-node.ts';

// Not imported with this file: only what is loaded after require-node.ts comes from the cache of compiled code.
await import('./wire/explain-command.ts');
