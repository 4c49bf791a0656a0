"""Remove documents from domains by masks over the token store, with a reason for each.

Nothing is tokenised again: a mask says which documents of the store stay, and everything after it
sees only those. The steps, in the order in which they decide, are the rows of `steps.STEPS`.
"""
