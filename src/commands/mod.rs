//! The subcommands that are no stages, one file each.

pub mod config;
pub mod doctor;
pub mod shell;
