//! Shapes of known models, for random weights: their configurations' numbers and the ids that an example needs.

/// How a shape's last hidden states are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The label words at the mask.
    Mask,
    /// The label words after the last row.
    Next,
    /// The label words where the decoder reads the mask.
    Decoded,
    /// Similarity of the pooled rows.
    Similar,
}

/// A shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// `config.json`, as far as it is read.
    pub(super) config: &'static str,
    /// Tensors that a model of its family may lack, but this one has.
    pub(super) optional: &'static [&'static str],
    pub(super) reading: Reading,
    /// Special tokens before and after a text.
    pub(super) before: Option<u32>,
    pub(super) after: Option<u32>,
    /// The mask's id, where it is read.
    pub(super) mask: u32,
}

/// The head of a masked language model, by RoBERTa's name.
const LM_HEAD: &[&str] = &["lm_head.dense.weight"];
const BERT_HEAD: &[&str] = &["cls.predictions.transform.dense.weight"];

const BERT: Shape = Shape {
    name: "",
    config: "",
    optional: BERT_HEAD,
    reading: Reading::Mask,
    before: Some(101),
    after: Some(102),
    mask: 103,
};
const ROBERTA: Shape = Shape { optional: LM_HEAD, before: Some(0), after: Some(2), mask: 50_264, ..BERT };
const CAUSAL: Shape = Shape { optional: &[], reading: Reading::Next, before: None, after: None, ..BERT };

/// Every shape.
const SHAPES: &[Shape] = &[
    Shape {
        name: "bert-tiny",
        config: r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 512, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "max_position_embeddings": 512, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
            "pad_token_id": 0}"#,
        ..BERT
    },
    Shape {
        name: "minilm",
        config: r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6,
            "num_attention_heads": 12, "intermediate_size": 1536, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "max_position_embeddings": 512, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
            "pad_token_id": 0}"#,
        optional: &[],
        reading: Reading::Similar,
        ..BERT
    },
    Shape {
        name: "roberta-base",
        config: r#"{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "max_position_embeddings": 514, "type_vocab_size": 1, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
            "pad_token_id": 1}"#,
        ..ROBERTA
    },
    Shape {
        name: "roberta-large",
        config: r#"{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24,
            "num_attention_heads": 16, "intermediate_size": 4096, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "max_position_embeddings": 514, "type_vocab_size": 1, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
            "pad_token_id": 1}"#,
        ..ROBERTA
    },
    Shape {
        name: "gpt2-large",
        config: r#"{"model_type": "gpt2", "vocab_size": 50257, "n_embd": 1280, "n_layer": 36, "n_head": 20,
            "n_positions": 1024}"#,
        ..CAUSAL
    },
    Shape {
        name: "llama-1b",
        config: r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192, "hidden_act": "silu",
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "tie_word_embeddings": true}"#,
        before: Some(128_000),
        ..CAUSAL
    },
    Shape {
        name: "t5-large",
        config: r#"{"model_type": "t5", "vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 4096,
            "num_heads": 16, "num_layers": 24, "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6,
            "feed_forward_proj": "relu", "tie_word_embeddings": true, "decoder_start_token_id": 0, "pad_token_id": 0}"#,
        optional: &[],
        reading: Reading::Decoded,
        before: None,
        after: Some(1),
        mask: 32_099,
    },
];

/// The shapes' names.
pub fn names() -> Vec<&'static str> {
    SHAPES.iter().map(|shape| shape.name).collect()
}

/// The shape of that name.
pub(super) fn find(name: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::{Backbone, Dtype};

    #[test]
    fn the_small_ones_are_built_as_they_say() {
        for (name, layers, hidden) in [("bert-tiny", 2, 128), ("minilm", 6, 384)] {
            let shape = find(name).unwrap();
            let backbone = Backbone::random(shape.config, shape.optional, Dtype::F32).unwrap();
            assert_eq!((backbone.layers(), backbone.hidden()), (layers, hidden));
            let masked = shape.reading == Reading::Mask;
            assert_eq!(backbone.read_outs().contains(&"masked-lm"), masked, "{name}");
        }
    }
}
