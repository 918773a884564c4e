//! F. Partition and performance.
