"""Parquet files through pyarrow and DuckDB: one JSON command on stdin, one JSON answer on stdout."""
import datetime
import decimal
import json
import sys

import duckdb
import pyarrow
import pyarrow.parquet


def shown(value):
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        zone = "Z" if value.tzinfo else ""
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + zone
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {name: shown(one) for name, one in value.items()}
    return value


def read(path):
    file = pyarrow.parquet.ParquetFile(path)
    statistics = [
        {
            file.metadata.row_group(group).column(column).path_in_schema: (
                [shown(found.min), shown(found.max), found.null_count] if (found := file.metadata.row_group(group).column(column).statistics) and found.has_min_max else None
            )
            for column in range(file.metadata.num_columns)
        }
        for group in range(file.metadata.num_row_groups)
    ]
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    cursor = connection.execute("SELECT * FROM read_parquet(?)", [path])
    names = [column[0] for column in cursor.description]
    return {
        "pyarrow": shown(file.read().to_pylist()),
        "duckdb": [dict(zip(names, shown(list(row)))) for row in cursor.fetchall()],
        "types": {field.name: str(field.type) for field in file.schema_arrow},
        "fieldIds": {field.name: int(field.metadata[b"PARQUET:field_id"]) for field in file.schema_arrow},
        "statistics": statistics,
    }


def verify(path):
    try:
        pyarrow.parquet.ParquetFile(path, page_checksum_verification=True).read()
    except OSError as error:
        return {"damaged": str(error)}
    return {"damaged": None}


def write(path, options):
    count = 300
    table = pyarrow.table(
        {
            "number": pyarrow.array([None if i % 7 == 0 else i * 10**15 - 10**17 for i in range(count)], pyarrow.int64()),
            "small": pyarrow.array([i - 150 for i in range(count)], pyarrow.int32()),
            "price": pyarrow.array([decimal.Decimal(i - 100) / 8 for i in range(count)], pyarrow.decimal128(18, 8)),
            "moment": pyarrow.array([i * 1_000_001 - 5_000_000 for i in range(count)], pyarrow.timestamp("us", "UTC")),
            "millis": pyarrow.array([i * 1_001 for i in range(count)], pyarrow.timestamp("ms", "UTC")),
            "text": pyarrow.array([None if i % 5 == 0 else f"t{i % 40}é" for i in range(count)], pyarrow.string()),
            "raw": pyarrow.array([bytes([i % 256] * (i % 9)) for i in range(count)], pyarrow.binary()),
            "flag": pyarrow.array([i % 3 == 0 for i in range(count)], pyarrow.bool_()),
            "ratio": pyarrow.array([i / 7 for i in range(count)], pyarrow.float64()),
            "tags": pyarrow.array([None if i % 6 == 0 else [f"a{i % 3}"] * (i % 4) for i in range(count)], pyarrow.list_(pyarrow.string())),
        }
    )
    pyarrow.parquet.write_table(table, path, **options)
    return {"rows": count}


command = json.load(sys.stdin)
answers = {
    "read": lambda: read(command["path"]),
    "verify": lambda: verify(command["path"]),
    "write": lambda: write(command["path"], command["options"]),
}
json.dump(answers[command["do"]](), sys.stdout)
