//! The stage `rollout`: tasks and a policy become fresh traces.

pub mod process;
pub mod tasks;
