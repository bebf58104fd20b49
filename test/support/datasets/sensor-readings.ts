import { z } from 'zod';
import type { AvroRecordSchema, Int64 } from '../../../src/datasets/dataset.ts';
import { defineDataset } from '../../../src/datasets/dataset.ts';
import { unscaledOf } from '../../../src/datasets/decimal.ts';
import type { Pipeline } from '../../../src/datasets/pipeline.ts';

// A dataset that is about something else than trades: it holds that the engine knows nothing of them.

export interface RawReading {
  site: string;
  sensor: string;
  sequence: number;
  taken_ms: number;
  celsius: string;
  battery: number | null;
  outdoors: boolean;
}

export const rawSchema: AvroRecordSchema = {
  type: 'record',
  name: 'RawReading',
  namespace: 'test.sensors',
  fields: [
    { name: 'site', type: 'string' },
    { name: 'sensor', type: 'string' },
    { name: 'sequence', type: 'long' },
    { name: 'taken_ms', type: 'long' },
    { name: 'celsius', type: 'string' },
    { name: 'battery', type: ['null', 'int'], default: null },
    { name: 'outdoors', type: 'boolean' },
  ],
};

interface Reading {
  readonly [column: string]: string | Int64 | boolean | readonly string[] | null;
}

export const sensorReadings = defineDataset<RawReading, Reading>({
  source: 'sensor-readings',
  topic: 'sensors.raw',
  rawSchema,
  ruleVersion: 'sensor-readings/1',
  bronzeTable: 'bronze_sensor_readings',
  silverTable: 'silver_sensor_readings',
  goldTable: 'gold_readings',
  fields: [
    { id: 1, name: 'id', type: 'string', required: true },
    { id: 2, name: 'site', type: 'string', required: true },
    { id: 3, name: 'sensor', type: 'string', required: true },
    { id: 4, name: 'sequence', type: 'long', required: true },
    { id: 5, name: 'taken', type: 'timestamptz', required: true },
    { id: 6, name: 'celsius', type: 'decimal(6,2)', required: true },
    { id: 7, name: 'battery', type: 'int', required: false },
    { id: 8, name: 'outdoors', type: 'boolean', required: true },
    { id: 9, name: 'labels', type: { type: 'list', elementId: 10, element: 'string', elementRequired: true }, required: true },
  ],
  key: ['site', 'sensor', 'sequence'],
  eventTime: 'taken',
  goldBucketBy: ['site'],
  goldColumns: [{
    field: { id: 202, name: 'is_frost', type: 'boolean', required: true },
    from: ['celsius'],
    derive: ({ celsius }, rowCount) => Array.from({ length: rowCount }, (_, i) => (celsius![i] as bigint) < 0n),
  }],
  rules: z.object({
    celsius: z.any().check((payload) => {
      if (Number.isNaN(payload.value)) payload.issues.push({ code: 'custom', message: 'celsius_not_representable', input: payload.value, continue: true });
    }),
    site: z.string().min(1, 'site_required'),
    sensor: z.string().min(1, 'sensor_required').refine((sensor) => {
      if (sensor === 'rule-throws') throw new Error('a rule that throws');
      return true;
    }),
  }),
  reasons: { place_validation: ['site_required', 'sensor_required'], celsius_validation: ['celsius_not_representable'] },
  map(raw, { messageId }) {
    if (raw.sensor === 'mapping-throws') throw new Error('a mapping that throws');
    return {
      id: messageId, site: raw.site, sensor: raw.sensor, sequence: raw.sequence, taken: raw.taken_ms * 1000,
      celsius: unscaledOf(raw.celsius, 6, 2), battery: raw.battery, outdoors: raw.outdoors, labels: raw.outdoors ? ['outdoors', raw.site] : [],
    };
  },
});

const sensors: Pipeline = { namespace: 'sensors', dlqTable: 'rejected_readings', datasets: [sensorReadings] };
export default sensors;
