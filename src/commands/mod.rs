//! The subcommands that are no stages, one file each.

pub mod build;
pub mod config;
pub mod diff;
pub mod doctor;
#[cfg(feature = "torch")]
pub mod policy;
#[cfg(feature = "torch")]
pub mod report;
#[cfg(feature = "torch")]
pub mod serve;
pub mod shell;
pub mod sql;
pub mod status;
pub mod table;
pub mod upkeep;
