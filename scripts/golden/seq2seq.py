"""The read-out of encoder-decoder models: the prompts are in the encoder, the logits are the decoder's.

In `add` the decoder attends to all rows of the encoder, prompt rows too. In `prefix` prompt rows are keys and
values of the encoder's layers and have no output of their own: the decoder attends to the text rows only.
"""

import torch
from prompting import layers
from transformers.modeling_outputs import BaseModelOutput
from values import Golden


class Seq2Seq(Golden):
    def read(self, ids, mask, rows, injection):
        asked = self.asked
        encoder = self.model.get_encoder()
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        shift = len(asked.initial_ids) if injection else 0
        if injection == "prefix":
            keep = [t for t in range(ids.shape[1]) if not asked.lead <= t < asked.lead + shift]
            ids, mask, hidden, shift = ids[:, keep], mask[:, keep], hidden[:, keep], 0
        decoder_ids, rows = self.decoder_input(ids, rows, shift)
        logits = self.model(
            encoder_outputs=BaseModelOutput(hidden), attention_mask=mask, decoder_input_ids=decoder_ids
        ).logits
        return {"seq2seq": logits[torch.arange(len(ids)), rows][:, asked.label_ids]}

    def stacks(self):
        decoder = self.model.get_decoder()
        blocks = decoder.block if hasattr(decoder, "block") else decoder.layers
        return {"hidden": layers(self.model), "decoder_hidden": blocks}


class T5(Seq2Seq):
    """The decoder reads [start, <extra_id_0>] whatever the example is, and its row 1 is the read-out."""

    @staticmethod
    def row(_row):
        return 1

    def decoder_input(self, ids, rows, _shift):
        start = self.model.config.decoder_start_token_id
        return torch.tensor([[start, self.asked.mask_id]] * len(ids)), rows


class Bart(Seq2Seq):
    """The decoder reads the encoder's ids, shifted right behind </s>; its row at the mask is the read-out.

    In `add` these are all ids, the initial prompt ids too; in `prefix` the text alone.
    """

    def decoder_input(self, ids, rows, shift):
        start = torch.full((len(ids), 1), self.model.config.decoder_start_token_id)
        return torch.cat([start, ids[:, :-1]], 1), [row + shift for row in rows]
