import type { CaptureCounts } from '../capture/capture.ts';
import type { Metrics } from './metrics.ts';

/** For `onProgress` of capture, which comes about once a second and at the end. */
export const createCaptureMetrics = (metrics: Metrics): ((counts: CaptureCounts) => void) => ({ produced, kinds, unparsable, drops }) => {
  metrics.setTotal('capture_records_produced_total', {}, produced);
  for (const [kind, frames] of Object.entries(kinds)) metrics.setTotal('capture_frames_total', { kind }, frames);
  metrics.setTotal('capture_frames_total', { kind: 'unparsable' }, unparsable);
  metrics.setTotal('capture_connection_drops_total', {}, drops);
};
