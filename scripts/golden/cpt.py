"""CPT (Shao et al. 2021), which transformers has no class for: built of its BERT and BART parts.

Ported from github.com/fastnlp/CPT, finetune/modeling_cpt.py at 4bb5dc65 (Apache-2.0): names of the weights, token
type 1 everywhere, an encoder configured by BERT's defaults where BART's keys are not handed on, and the read-out of
its CPTForMaskedLM at the encoder, which is the one that BBTv2's code tunes. BBTv2 leaves final_logits_bias out; it
is zero in the published checkpoints. The generation decoder is in the file, as there, and never run.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BertConfig, BertModel
from transformers.models.bart.modeling_bart import BartDecoder


class Encoder(BertModel):
    def forward(self, input_ids, attention_mask=None):
        types = torch.ones_like(input_ids)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=types)


class CPTForMaskedLM(torch.nn.Module):
    """`positions` are the encoder's; config.max_position_embeddings are the decoder's."""

    def __init__(self, config, positions):
        super().__init__()
        encoder = BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.encoder_layers,
            num_attention_heads=config.encoder_attention_heads,
            intermediate_size=config.encoder_ffn_dim,
            max_position_embeddings=positions,
        )
        encoder._attn_implementation = config._attn_implementation = "eager"
        self.config = config
        self.model = torch.nn.Module()
        self.model.encoder = Encoder(encoder, add_pooling_layer=False)
        self.model.shared = self.model.encoder.get_input_embeddings()
        self.model.decoder = BartDecoder(config)
        self.model.decoder.embed_tokens = self.model.shared
        self.lm_head = torch.nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.shared.weight
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))

    @property
    def base_model(self):
        return self.model.encoder

    def get_input_embeddings(self):
        return self.model.shared

    def save_pretrained(self, folder):
        """All names of the word embeddings but the head's, as the published files have them."""
        self.config.architectures = ["CPTForConditionalGeneration"]
        self.config.save_pretrained(folder)
        state = {name: tensor.clone() for name, tensor in self.state_dict().items() if "lm_head" not in name}
        save_file(state, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder, **_options):
        folder = pathlib.Path(folder)
        state = load_file(folder / "model.safetensors")
        positions = len(state["model.encoder.embeddings.position_embeddings.weight"])
        model = cls(BartConfig(**json.loads((folder / "config.json").read_text())), positions)
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert (missing, unexpected) == (["lm_head.weight"], []), (missing, unexpected)
        return model
