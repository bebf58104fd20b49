import avro from 'avsc';

// BACKWARD: a reader of the new schema reads what the old one wrote (Avro 1.12 specification, "Schema Resolution").

interface FieldJson { readonly name: string; readonly type: unknown; readonly default?: unknown; readonly aliases?: readonly string[] }
interface RecordJson { readonly type?: unknown; readonly name?: string; readonly namespace?: string; readonly fields?: readonly FieldJson[] }

const problemOf = (reader: unknown, writer: unknown): string | undefined => {
  try {
    avro.Type.forSchema(reader as avro.Schema).createResolver(avro.Type.forSchema(writer as avro.Schema));
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
};

const isRecord = (schema: unknown): schema is RecordJson & { fields: readonly FieldJson[] } =>
  typeof schema === 'object' && schema !== null && (schema as RecordJson).type === 'record' && Array.isArray((schema as RecordJson).fields);

const shortName = (name: string | undefined): string | undefined => name?.split('.').at(-1);

/** Why records of `writer` cannot be read as `reader`, one line for each field, with its path; empty: they can. Schemas as JSON. */
export const backwardProblems = (reader: unknown, writer: unknown, path = ''): string[] => {
  if (!isRecord(reader) || !isRecord(writer)) {
    const problem = problemOf(reader, writer);
    return problem === undefined ? [] : [`${path === '' ? 'the schema' : `field ${path}`}: expected a type that reads ${JSON.stringify(writer)}, found ${JSON.stringify(reader)} (${problem})`];
  }
  const problems: string[] = [];
  if (shortName(reader.name) !== shortName(writer.name)) problems.push(`${path === '' ? 'the schema' : `field ${path}`}: expected a record named ${writer.name}, found ${reader.name}`);
  for (const field of reader.fields) {
    const at = path === '' ? field.name : `${path}.${field.name}`;
    const written = writer.fields.find(({ name }) => name === field.name || field.aliases?.includes(name));
    if (written) problems.push(...backwardProblems(field.type, written.type, at));
    else if (!('default' in field)) problems.push(`field ${at}: expected a default, as the registered schema has no such field, found none`);
  }
  // What no field explains: names that only the whole schema resolves.
  const whole = problems.length === 0 && path === '' ? problemOf(reader, writer) : undefined;
  return whole === undefined ? problems : [`the schema: ${whole}`];
};
