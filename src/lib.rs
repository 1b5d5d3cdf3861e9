//! Fulgurite: reinforcement learning for any AI agent, from the trace files it leaves behind.

#[cfg(feature = "lake")]
pub mod air;
#[cfg(feature = "lake")]
pub mod cli;
#[cfg(feature = "lake")]
pub mod commands;
#[cfg(feature = "lake")]
pub mod config;
#[cfg(feature = "lake")]
pub mod credit;
#[cfg(feature = "lake")]
pub mod derive;
#[cfg(feature = "lake")]
pub mod engine;
#[cfg(feature = "lake")]
pub mod exit;
#[cfg(feature = "lake")]
mod explain;
#[cfg(feature = "torch")]
pub mod generate;
#[cfg(feature = "torch")]
pub mod grader;
#[cfg(feature = "lake")]
pub mod ingest;
#[cfg(feature = "lake")]
pub mod lake;
pub mod loss;
#[cfg(feature = "lake")]
pub mod progress;
#[cfg(feature = "torch")]
pub mod rollout;
#[cfg(feature = "lake")]
pub mod schema;
#[cfg(feature = "lake")]
pub mod stage;
pub mod trace;
