"""Write a tiny Llama with random weights as a safetensors folder, for real engines in tests. Downloads nothing.

    python tests/support/make_tiny_llama.py FOLDER

Run by vLLM's own Python (scripts/build_vllm.sh): it needs torch, transformers and tokenizers, which the gateway does
not. Its tokens are bytes, so any prompt can be read; it never ends by itself, `max_tokens` ends it.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL = ["<|pad|>", "<|begin|>", "<|start|>", "<|end|>"]
CONTEXT = 4096


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and those that chats are made of."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*SPECIAL, *letters])}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def model(vocabulary: int) -> LlamaForCausalLM:
    """260 tokens, 2 layers of 4 heads: 2 MB, and heads of a size that vLLM has kernels for."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        # Nothing but printable ASCII is ever drawn: what it says is valid UTF-8, and it has no end. The others stay at
        # zero, far below the largest of the rest.
        head = made.get_output_embeddings().weight
        head *= 40
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        for number in range(vocabulary):
            letter = letters[number - len(SPECIAL)] if number >= len(SPECIAL) else ""
            if not (letter and "!" <= letter <= "~"):
                head[number] = 0
    return made


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    words = tokenizer()
    model(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
