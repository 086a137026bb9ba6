"""Examples as Arrow columns: the bridge between an `ExampleBatch` and a shard's record batch."""

from __future__ import annotations

import pyarrow as pa

from lmdata.batch import NO_LABEL, ExampleBatch
from lmdata.columns import to_column, to_list_column


def to_record_batch(batch: ExampleBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return examples as one record batch of `schema.example_schema`.

    Columns that already have the right type are not copied. The segments of a packed row are not
    kept: each ends with its special token, by which `batch.split_segments` finds them again.
    """
    types = {field.name: field.type for field in schema}
    has_label = batch.next_sentence_label != NO_LABEL
    columns = {
        "input_ids": to_list_column(batch.input_ids, batch.offsets, types["input_ids"]),
        "token_type_ids": to_list_column(
            batch.token_type_ids, batch.offsets, types["token_type_ids"]
        ),
        "masked_positions": to_list_column(
            batch.masked_positions, batch.mask_offsets, types["masked_positions"]
        ),
        "masked_labels": to_list_column(
            batch.masked_labels, batch.mask_offsets, types["masked_labels"]
        ),
        "next_sentence_label": to_column(batch.next_sentence_label, has_label),
        "document_a": to_column(batch.document_a),
        "document_b": to_column(batch.document_b),
        "duplicate": to_column(batch.duplicate),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
