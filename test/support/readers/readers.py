"""Reads Iceberg tables with PyIceberg and DuckDB: one JSON request on stdin, one JSON answer on stdout.

Requests carry `do` and `s3` ({endpoint, region, accessKeyId, secretAccessKey}), and by `do`:
  pyiceberg.read   metadata (s3:// location of a metadata.json), columns?, filter?, limit?, snapshot_id?
  pyiceberg.write  warehouse (s3:// location), namespace, table, schema ([[name, type], ...]), partition_by ([column, ...]), batches ([[row, ...], ...])
  duckdb.query     tables ({view name: metadata location}), sql

Values that JSON lacks are text: decimals in plain notation, timestamps and dates in ISO 8601, bytes in hex, integers past 2^53.
"""

import datetime
import decimal
import importlib.util
import json
import pathlib
import sys
import tempfile
import uuid


def pyiceberg_properties(s3):
    return {
        "s3.endpoint": s3["endpoint"],
        "s3.region": s3["region"],
        "s3.access-key-id": s3["accessKeyId"],
        "s3.secret-access-key": s3["secretAccessKey"],
        "s3.force-virtual-addressing": "false",
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
    }


def pyiceberg_read(request):
    from pyiceberg.table import StaticTable

    table = StaticTable.from_metadata(request["metadata"], properties=pyiceberg_properties(request["s3"]))
    scan = table.scan(
        row_filter=request.get("filter") or "True",
        selected_fields=tuple(request.get("columns") or ["*"]),
        snapshot_id=request.get("snapshot_id") and int(request["snapshot_id"]),
        limit=request.get("limit"),
    )
    data_files = [task.file.file_path for task in scan.plan_files()]
    rows = scan.to_arrow().to_pylist()
    snapshot = table.current_snapshot()
    return {
        "rows": rows,
        "data_files": data_files,
        "snapshot_id": str(snapshot.snapshot_id) if snapshot else None,
        "columns": {field.name: str(field.field_type) for field in table.schema().fields},
        "properties": dict(table.properties),
    }


def pyiceberg_write(request):
    """A table written by PyIceberg, for our reader and for the readers' own test."""
    import pyarrow
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.transforms import IdentityTransform

    with tempfile.TemporaryDirectory() as folder:
        catalog = SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.db", warehouse=request["warehouse"], **pyiceberg_properties(request["s3"]))
        catalog.create_namespace(request["namespace"])
        types = {
            "long": pyarrow.int64(),
            "string": pyarrow.string(),
            "binary": pyarrow.binary(),
            "timestamptz": pyarrow.timestamp("us", tz="UTC"),
            "decimal(18,8)": pyarrow.decimal128(18, 8),
        }
        schema = pyarrow.schema([(name, types[kind]) for name, kind in request["schema"]])
        table = catalog.create_table((request["namespace"], request["table"]), schema=schema)
        if request.get("partition_by"):
            with table.update_spec() as update:
                for column in request["partition_by"]:
                    update.add_field(column, IdentityTransform())
        kinds = dict(request["schema"])
        for batch in request["batches"]:
            rows = [{name: from_json(kinds[name], value) for name, value in row.items()} for row in batch]
            table.append(pyarrow.Table.from_pylist(rows, schema=schema))
        return {"metadata": table.metadata_location}


def from_json(kind, value):
    if value is None:
        return None
    if kind.startswith("decimal"):
        return decimal.Decimal(value)
    if kind == "timestamptz":
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if kind == "binary":
        return bytes.fromhex(value)
    return int(value) if kind == "long" else value


def duckdb_query(request):
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    for name in ("avro", "httpfs", "iceberg"):
        connection.load_extension(str(extension_file(name)))
    s3 = request["s3"]
    scheme, _, address = s3["endpoint"].partition("://")
    connection.execute(
        f"""CREATE SECRET store (TYPE s3, KEY_ID {literal(s3["accessKeyId"])}, SECRET {literal(s3["secretAccessKey"])},
            REGION {literal(s3["region"])}, ENDPOINT {literal(address)}, URL_STYLE 'path', USE_SSL {"true" if scheme == "https" else "false"})"""
    )
    connection.execute("SET TimeZone = 'UTC'")
    for view, metadata in (request.get("tables") or {}).items():
        connection.execute(f'CREATE VIEW "{view}" AS SELECT * FROM iceberg_scan({literal(metadata)})')
    answer = connection.execute(request["sql"])
    names = [column[0] for column in answer.description]
    return {"rows": [dict(zip(names, row)) for row in answer.fetchall()]}


def extension_file(name):
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    return next(pathlib.Path(package.submodule_search_locations[0]).rglob(f"{name}.duckdb_extension"))


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def to_json(value):
    if isinstance(value, dict):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, datetime.datetime):
        in_utc = value.astimezone(datetime.timezone.utc) if value.tzinfo else value
        return in_utc.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


ACTIONS = {"pyiceberg.read": pyiceberg_read, "pyiceberg.write": pyiceberg_write, "duckdb.query": duckdb_query}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(to_json(ACTIONS[asked["do"]](asked)), sys.stdout)
