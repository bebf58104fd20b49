declare module 'parquetjs-lite' {
  interface ParquetSchema { readonly fields: Record<string, unknown> }
  type FieldDefinition = { type: string; compression?: string; optional?: boolean; repeated?: boolean };
  class ParquetWriter {
    static openFile(schema: ParquetSchema, path: string): Promise<ParquetWriter>;
    setRowGroupSize(rows: number): void;
    appendRow(row: Record<string, unknown>): Promise<void>;
    close(): Promise<void>;
  }
  const parquetjs: { ParquetSchema: new (fields: Record<string, FieldDefinition>) => ParquetSchema; ParquetWriter: typeof ParquetWriter };
  export default parquetjs;
}
