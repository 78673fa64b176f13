"""Conditions from texts: tokenizers, and text encoders bound to their parameters."""

from jaxdiff.conditioning.text_encoder import TextEncoder as TextEncoder
from jaxdiff.conditioning.text_encoder import encode as encode
from jaxdiff.conditioning.tokenizers import Tokenizer as Tokenizer
from jaxdiff.conditioning.tokenizers import Tokens as Tokens
from jaxdiff.conditioning.tokenizers import read_tokenizer as read_tokenizer
