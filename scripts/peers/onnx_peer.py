"""BBTv2's evaluation of one candidate in ONNX Runtime: f32, or its dynamic int8.

The graph is written node by node with the operators that ONNX Runtime's transformer optimizer fuses a BERT into
(MultiHeadAttention, SkipLayerNormalization, BiasGelu), so that nothing hangs on an exporter's patterns. Prompts are an
input, `[L, n, H]`, that enters every layer as in the official code: added to the prompt rows, or put in their place.
The embedded rows are an input too: they never change.
"""

import logging

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

CONTRIB = "com.microsoft"
logging.disable(logging.WARNING)  # quantize_dynamic recommends a step for image models


class Graph:
    """Nodes and weights, collected."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def weight(self, name, values):
        values = values.detach().numpy() if hasattr(values, "detach") else np.asarray(values)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind, inputs, outputs=1, domain="", **attributes):
        name = f"{kind}_{len(self.nodes)}"
        names = [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def product(self, x, name, linear):
        """x W^T, without the bias."""
        return self.node("MatMul", [x, self.weight(f"{name}.weight", linear.weight.T)])

    def norm(self, x, residual, bias, name, norm):
        inputs = [x, residual, self.weight(f"{name}.gamma", norm.weight), self.weight(f"{name}.beta", norm.bias)]
        inputs.append(self.weight(f"{name}.before", bias))
        return self.node("SkipLayerNormalization", inputs, domain=CONTRIB, epsilon=norm.eps)


def with_prompt(graph, hidden, layer, sizes, injection):
    """A layer's input with its prompt: `hidden` cut into the first row, the prompt's rows and the rest."""
    n, rows = sizes["prompt"], sizes["rows"]
    parts = graph.weight(f"parts.{layer}", np.array([1, n, rows - 1 - n], dtype=np.int64))
    first, old, rest = graph.node("Split", [hidden, parts], outputs=3, axis=1)
    index = graph.weight(f"index.{layer}", np.array(layer, dtype=np.int64))
    prompt = graph.node("Gather", ["prompts", index], axis=0)
    if injection == "add":
        new = graph.node("Add", [old, prompt])
    else:
        shape = graph.weight(f"shape.{layer}", np.array([sizes["batch"], n, sizes["hidden"]], dtype=np.int64))
        new = graph.node("Expand", [prompt, shape])
    return graph.node("Concat", [first, new, rest], axis=1)


def block(graph, hidden, index, layer, heads):
    name, attention = f"layer.{index}", layer.attention
    own = attention.self
    parts = [("query", own.query), ("key", own.key), ("value", own.value)]
    projected = [graph.product(hidden, f"{name}.{part}", linear) for part, linear in parts]
    bias = graph.weight(f"{name}.bias", torch.cat([linear.bias for _, linear in parts]))
    context = graph.node(
        "MultiHeadAttention", [*projected, bias, "lengths"], domain=CONTRIB, num_heads=heads
    )
    output = attention.output
    attended = graph.product(context, f"{name}.output", output.dense)
    hidden = graph.norm(attended, hidden, output.dense.bias, f"{name}.norm", output.LayerNorm)
    up, down = layer.intermediate.dense, layer.output
    wide = graph.product(hidden, f"{name}.up", up)
    wide = graph.node("BiasGelu", [wide, graph.weight(f"{name}.up.bias", up.bias)], domain=CONTRIB)
    narrow = graph.product(wide, f"{name}.down", down.dense)
    return graph.norm(narrow, hidden, down.dense.bias, f"{name}.out", down.LayerNorm)


def masked_head(graph, hidden, model, peer):
    """The label words' logits at the mask's row alone; returns the nodes of the head, too."""
    head = model.lm_head if hasattr(model, "lm_head") else model.cls.predictions.transform
    begun = len(graph.nodes)
    at = np.array([[i, row] for i, row in enumerate(peer.rows)], dtype=np.int64)
    rows = graph.node("GatherND", [hidden, graph.weight("at", at)])
    dense = graph.product(rows, "head.dense", head.dense)
    dense = graph.node("BiasGelu", [dense, graph.weight("head.dense.bias", head.dense.bias)], domain=CONTRIB)
    norm = head.layer_norm if hasattr(head, "layer_norm") else head.LayerNorm
    inputs = [dense, graph.weight("head.gamma", norm.weight), graph.weight("head.beta", norm.bias)]
    rows = graph.node("LayerNormalization", inputs, axis=-1, epsilon=norm.eps)
    decoder = model.lm_head.decoder if hasattr(model, "lm_head") else model.cls.predictions.decoder
    ids = peer.work["label_ids"]
    logits = graph.node("MatMul", [rows, graph.weight("labels", decoder.weight[ids].T)])
    graph.node("Add", [logits, graph.weight("labels.bias", decoder.bias[ids])])
    return [node.name for node in graph.nodes[begun:]]


def similar_head(graph, hidden, peer):
    """Mean pooling over the text's rows and the classes' similarity."""
    begun, n = len(graph.nodes), peer.work["prompt_tokens"]
    share = peer.mask.float().clone()
    share[:, 1 : 1 + n] = 0
    share = (share / share.sum(1, keepdim=True))[:, None, :]
    pooled = graph.node("MatMul", [graph.weight("share", share), hidden])
    unit = graph.node("LpNormalization", [pooled], axis=-1, p=2)
    classes = torch.nn.functional.normalize(peer.classes, dim=-1) / peer.work["temperature"]
    logits = graph.node("MatMul", [unit, graph.weight("classes", classes.T)])
    graph.node("Squeeze", [logits, graph.weight("axis", np.array([1], dtype=np.int64))])
    return [node.name for node in graph.nodes[begun:]]


def write(path, peer):
    """Writes the graph of a PyTorch peer (f32); returns the names of the head's nodes."""
    base, model, work = peer.model.base_model, peer.model, peer.work
    batch, rows = peer.ids.shape
    hidden_size = base.config.hidden_size
    sizes = {"batch": batch, "rows": rows, "prompt": work["prompt_tokens"], "hidden": hidden_size}
    graph, hidden = Graph(), "embedded"
    for index, layer in enumerate(base.encoder.layer):
        hidden = with_prompt(graph, hidden, index, sizes, work["injection"])
        hidden = block(graph, hidden, index, layer, base.config.num_attention_heads)
    masked = work["read_out"] == "masked-lm"
    head = masked_head(graph, hidden, model, peer) if masked else similar_head(graph, hidden, peer)
    layers = len(base.encoder.layer)
    floats = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("embedded", floats, [batch, rows, hidden_size]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, [batch]),
        helper.make_tensor_value_info("prompts", floats, [layers, sizes["prompt"], hidden_size]),
    ]
    out = helper.make_tensor_value_info(graph.nodes[-1].output[0], floats, None)
    whole = helper.make_graph(graph.nodes, "bbtv2", inputs, [out], graph.weights)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    onnx.save(
        helper.make_model(whole, opset_imports=versions, ir_version=9), path,
        save_as_external_data=True, location=f"{path.name}.data",
    )
    return head


class OnnxPeer:
    """A session on the graph, all optimisations on."""

    def __init__(self, peer, folder, dtype):
        self.name, self.version = f"onnxruntime {dtype}", ort.__version__
        self.context, self.candidates = peer.context.numpy(), peer.candidates.numpy()
        path = folder / "model.onnx"
        head = write(path, peer)
        if dtype == "int8":
            quantised = folder / "int8.onnx"
            (folder / f"{quantised.name}.data").unlink(missing_ok=True)
            quantize_dynamic(
                path, quantised, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=head,
                op_types_to_quantize=["MatMul"], use_external_data_format=True,
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
            path = quantised
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = peer.work["threads"], 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with torch.inference_mode():
            embedded = peer.model.base_model.embeddings(input_ids=peer.ids).numpy()
        self.fixed = {"embedded": embedded, "lengths": peer.mask.sum(1).numpy().astype(np.int32)}

    def logits(self, layer, candidate):
        """Logits [B, C] with candidate number `candidate` at `layer` and the context elsewhere."""
        prompts = self.context.copy()
        prompts[layer] = self.candidates[candidate]
        found = self.session.run(None, {**self.fixed, "prompts": prompts})[0]
        return torch.from_numpy(found).double()
