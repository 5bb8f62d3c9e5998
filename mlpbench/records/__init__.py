"""What is written down: the kinds of records, their text form, and the files that hold them."""
