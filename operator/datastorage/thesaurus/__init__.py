"""The thesaurus: groups of words and phrases that mean the same in the field, for searches by words.

``field.toml`` is the thesaurus of the program. An operator's own file may add groups, and replace those of
the program or leave them out.
"""
