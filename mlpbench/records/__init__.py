"""Store observations: the kinds of records, their form as text, and the files that hold them."""
