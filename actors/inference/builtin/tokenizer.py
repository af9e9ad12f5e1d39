"""The tokenizer of the built-in model: byte-level BPE over the corpus, with its chat template.

Source: Sennrich et al. 2016 (BPE), as the `tokenizers` library implements it. Every byte has an
entry, so that no text is unknown; an error code can be one entry, because a digit tells two apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ENTRIES = 2000
CONTEXT = 1024
PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"

WORD = r" ?[Rr]3-[A-Za-z]+-\d{3}| ?[A-Za-z]+| ?\d|[\s\S]"
"""What may become one entry: an error code of the node, a word, a digit, any other character."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
  {%- if message['content'] is string %}
    {%- set text = message['content'] %}
  {%- else %}
    {%- set text = message['content'] | selectattr('type', 'equalto', 'text') \
| map(attribute='text') | join('\\n') %}
  {%- endif %}
  {%- if message['role'] == 'user' %}
    {{- '<|user|> ' + text | trim }}
  {%- elif message['role'] == 'assistant' %}
    {{- '<|assistant|>' + text | trim }}
  {%- elif message['role'] in ('system', 'developer') %}
    {{- '<|system|> ' + text | trim }}
  {%- else %}
    {{- raise_exception("this model knows no role '" + message['role'] + "'") }}
  {%- endif %}
  {{- eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|assistant|>' }}
{%- endif %}
"""


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Learns the entries from `texts`.

    Returns:
        A transformers tokenizer with the chat template and all special tokens set.
    """
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=ENTRIES,
            min_frequency=2,
            special_tokens=[PAD, BEGIN, END, SYSTEM, USER, ASSISTANT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    wrap: Any = transformers.PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
