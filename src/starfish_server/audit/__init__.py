"""The audit log that `AccessLog` can write: records, files, hash chain, verification."""
