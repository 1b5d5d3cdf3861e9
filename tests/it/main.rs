//! The integration tests: one binary, one module a subject.

mod agent_lightning;
mod air;
mod cases;
mod cli;
mod contract;
mod crash;
mod credit;
mod derive;
mod diff;
mod engine;
#[cfg(feature = "torch")]
mod frameworks;
mod ingest;
mod iterate;
mod lake;
mod lake_faults;
mod peers;
mod policies;
mod portable;
#[cfg(feature = "torch")]
mod report;
mod rollout;
mod rows;
mod second_engine;
#[cfg(feature = "torch")]
mod serve;
mod stages;
mod tables;
#[cfg(feature = "torch")]
mod text;
#[cfg(feature = "torch")]
mod train;
