#!/usr/bin/env python3
"""Writes a tiny llama model with random weights, about half a megabyte.

The model says nothing sensible, and need not: what counts is that a real
engine tokenizes, evaluates and samples it, so that its token counts are real.
The same seed writes the same bytes.

The tokenizer is a valid sentencepiece one: control pieces, all 256 byte
pieces (so that any text can be encoded), printable characters, and some words
with all their prefixes (sentencepiece reaches a word by merging its prefixes).

The weights are random but for one channel, which holds a constant through all
layers and so acts as an output bias: byte pieces are never chosen (each chosen
token is readable text on its own) and the end of the answer comes rarely.
"""

import argparse

import gguf
import numpy as np

EMBEDDING = 64
FEED_FORWARD = 96
HEADS = 2
LAYERS = 2
CONTEXT = 4096
BIAS_CHANNEL = 0
WORDS = """the of and to in is was for with that this from have not are but
had his they which one you were all her she there would their been has when who
will more if out so said what up its about into than them can only other new
some could time these two may then do first any my now such like our over man me
even most made after also did many before must through back years where much
your way well down should because each just those people how too little state
good very make world still own see men work long get here between both life
being under never day same another know while last might us great old year off
come since against go came right used take three ledger token block grant
""".split()


def vocabulary():
    """Pieces, scores and types; a longer piece has the better score."""
    control, normal, byte = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.BYTE
    pieces = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", control), ("</s>", control)]
    pieces += [(f"<0x{value:02X}>", byte) for value in range(256)]
    texts = [chr(code) for code in range(33, 127)]
    texts += ["\u2581" + word[:end] for word in WORDS for end in range(0, len(word) + 1)]
    pieces += [(text, normal) for text in dict.fromkeys(texts)]
    scores = [float(len(text)) if kind == normal else 0.0 for text, kind in pieces]
    return [text for text, _ in pieces], scores, [kind for _, kind in pieces]


def tensors(kinds, seed):
    """Name and value of every tensor of the `llama` architecture."""
    random = np.random.default_rng(seed)

    def matrix(rows, columns, scale):
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def into_residual(rows, columns):
        weights = matrix(rows, columns, 0.1)
        weights[BIAS_CHANNEL] = 0.0
        return weights

    ones = np.ones(EMBEDDING, dtype=np.float32)
    embedding = matrix(len(kinds), EMBEDDING, 1.0)
    embedding[:, BIAS_CHANNEL] = 8.0
    output = matrix(len(kinds), EMBEDDING, 0.5)
    normal = np.array([kind == gguf.TokenType.NORMAL for kind in kinds])
    output[:, BIAS_CHANNEL] = np.where(normal, 0.0, -20.0)
    output[2] = 0.0
    output[2, BIAS_CHANNEL] = 1.3

    yield "token_embd.weight", embedding
    yield "output_norm.weight", ones
    yield "output.weight", output
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", ones
        for name in ("attn_q", "attn_k", "attn_v"):
            yield block + name + ".weight", matrix(EMBEDDING, EMBEDDING, 0.15)
        yield block + "attn_output.weight", into_residual(EMBEDDING, EMBEDDING)
        yield block + "ffn_norm.weight", ones
        for name in ("ffn_gate", "ffn_up"):
            yield block + name + ".weight", matrix(FEED_FORWARD, EMBEDDING, 0.15)
        yield block + "ffn_down.weight", into_residual(EMBEDDING, FEED_FORWARD)


def write(path, seed):
    """Writes the model file."""
    texts, scores, kinds = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tally-interop-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(texts))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    for name, value in tensors(kinds, seed):
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description="write a tiny random-weight GGUF model")
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.path, arguments.seed)


if __name__ == "__main__":
    main()
