//! OpenAI's APIs as types: what clients may send, what they get. One file an endpoint; nothing here knows a model.

pub mod chat;
pub mod completions;
pub mod error;
pub mod form;
pub mod messages;
pub mod responses;
pub mod shared;

pub use error::ApiError;
