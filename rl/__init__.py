"""Episodes: what was asked, what was answered and how good it was, recorded and sent to a cloud trainer.

A leaf: it imports nothing of `adapter_service`, so that another process can use the folder alone
(Python's standard library, PyYAML, requests, and boto3 for S3).
"""
