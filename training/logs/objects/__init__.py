"""Logs on object stores: what S3 and Google Cloud Storage hold, read and written as files and folders are."""
