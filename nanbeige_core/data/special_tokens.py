"""Names and id order of the special tokens (model card; recipe.md 1).

The first three hold ids 0, 1, 2 and the last seven the highest ids, in this order, in every tokenizer.
"""

UNKNOWN = "<unk>"
BEGIN = "<s>"
END = "</s>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
THINK_START = "<think>"
THINK_END = "</think>"
TOOL_CALL_START = "<tool_call>"
TOOL_CALL_END = "</tool_call>"

FIRST = (UNKNOWN, BEGIN, END)
"""Ids 0, 1, 2."""

LAST = (TURN_START, TURN_END, END_OF_TEXT, THINK_START, THINK_END, TOOL_CALL_START, TOOL_CALL_END)
"""Ids vocabulary size - 7 and up."""

VISIBLE = (THINK_START, THINK_END, TOOL_CALL_START, TOOL_CALL_END)
"""Kept by `decode(skip_special_tokens=True)`: a reader and a verifier need to see where the thinking ends."""

BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
"""Byte fallback pieces, ids 3 to 258; a byte-level tokenizer has its bytes there under other names."""
