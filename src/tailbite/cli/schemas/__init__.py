"""JSON Schemas of the documents that the commands print (JSON Schema 2020-12), one file for each."""
