//! Containers: where a span's fields are in a file.
