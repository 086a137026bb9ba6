"""Examples as Arrow columns: the bridge between an `ExampleBatch` and a shard's record batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lmdata.batch import NO_LABEL, ExampleBatch


def to_record_batch(batch: ExampleBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return examples as one record batch of `schema.example_schema`.

    Columns that already have the right type are not copied. The segments of a packed row are not
    kept: each ends with its special token, by which `batch.split_segments` finds them again.
    """
    types = {field.name: field.type for field in schema}
    has_label = batch.next_sentence_label != NO_LABEL
    columns = {
        "input_ids": _lists(batch.input_ids, batch.offsets, types["input_ids"]),
        "token_type_ids": _lists(batch.token_type_ids, batch.offsets, types["token_type_ids"]),
        "masked_positions": _lists(
            batch.masked_positions, batch.mask_offsets, types["masked_positions"]
        ),
        "masked_labels": _lists(batch.masked_labels, batch.mask_offsets, types["masked_labels"]),
        "next_sentence_label": pa.array(
            batch.next_sentence_label, mask=None if has_label.all() else ~has_label
        ),
        "document_a": pa.array(batch.document_a),
        "document_b": pa.array(batch.document_b),
        "duplicate": pa.array(batch.duplicate),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _lists(values: np.ndarray, offsets: np.ndarray, kind: pa.ListType) -> pa.ListArray:
    """Return ragged values as a list column; `offsets` fit into int32 as a shard's batch does."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), type=kind)
