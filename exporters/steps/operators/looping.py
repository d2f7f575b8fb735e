"""Loops."""

from __future__ import annotations

from typing import Any

import torch
from onnx import helper

from trimtab.exporters.steps.translation import TYPES, Node, Translation, Value, dtype_of, lowers, shape_of


@lowers("trimtab.repeat.default")
def _repeat_body(t: Translation, node: Node) -> Any:
    """The body reads what it is given straight from the graph around it."""
    _, times, count, carried, rows, given = node.args
    body = t.recorded.loops[node]
    starts = [t.name(c) for c in carried]
    ends = t.emit("Reshape", t.name(count), t.constant([1])) if rows else ""
    cut = [Value(t.emit("Slice", t.name(r), t.constant([0]), ends, t.constant([0]))) for r in rows]
    inner = [t.draft.fresh("carried") for _ in carried]
    values = [*map(Value, inner), *cut, *(t.values[g] for g in given)]
    around, t.draft.nodes = t.draft.nodes, []
    results = Translation(body, t.draft, dict(zip(body.inputs, values, strict=True)), t.names).run()
    outputs = [t.draft.node("Identity", r) for r in results]
    turn, go, on = (t.draft.fresh(what) for what in ("turn", "go", "on"))
    t.draft.node("Identity", go, out=on)
    nodes, t.draft.nodes = t.draft.nodes, around
    shapes = [[s if isinstance(s, int) else None for s in shape_of(c)] for c in carried]
    types = [TYPES[dtype_of(c)] for c in carried]
    graph = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info(turn, TYPES[torch.int64], []),
            helper.make_tensor_value_info(go, TYPES[torch.bool], []),
            *map(helper.make_tensor_value_info, inner, types, shapes),
        ],
        [
            helper.make_tensor_value_info(on, TYPES[torch.bool], []),
            *map(helper.make_tensor_value_info, outputs, types, shapes),
        ],
    )
    after = [t.draft.fresh("Loop") for _ in carried]
    t.draft.nodes.append(helper.make_node("Loop", [t.name(times), "", *starts], after, name=after[0], body=graph))
    return after
