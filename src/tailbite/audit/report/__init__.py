"""Verdicts as other programs read them: JSON, JUnit, one HTML page, a folder of evidence. Records in, text out."""
