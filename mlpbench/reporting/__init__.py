"""Write for people: tables, figures and pages. Only this package and the command line import pandas."""
