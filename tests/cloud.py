"""Google's storage without Google: what a library sees of ``gs://``, in memory."""

import fsspec
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Objects are written whole, never appended to."""

    protocol = "gcs"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))

    def _open(self, path, mode="rb", **options):
        if "a" in mode:
            raise NotImplementedError("append")
        return super()._open(path, mode, **options)


def empty_bucket() -> epath.Path:
    """``gs://bucket``, empty."""
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    Bucket.store.clear()
    return epath.Path("gs://bucket")
