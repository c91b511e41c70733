"""What a run left behind, made readable: tables in the terminal, one HTML page, the same as Markdown. No torch here.

Read in this order: `run` (artifacts), `content` (what is said, as data), then its three voices: `tables`,
`html`, `markdown`; `charts` says which curves there are, `svg` draws them.
"""
