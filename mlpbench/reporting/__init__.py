"""What a person reads: tables, figures, pages. The only room with pandas, beside the command line."""
