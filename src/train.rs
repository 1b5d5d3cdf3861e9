//! The stage `train`: policy N and the transitions of a batch become policy N+1.

pub mod forest;
pub mod optimiser;
pub mod schedule;
