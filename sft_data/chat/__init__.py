"""Chat templates: rendering a conversation to the text a model reads, and where each turn lies in it."""
