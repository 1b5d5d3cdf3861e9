//! The integration tests: one binary, one module a subject.

mod crash;
mod lake;
mod lake_faults;
mod peers;
mod rows;
mod tables;
