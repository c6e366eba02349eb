"""The page of explore.py: a server on this machine alone, and what it serves.

Needs the extra `app` (FastAPI and uvicorn); the modules are imported by name.
"""
