//! Progress bars and messages on stderr.

/// Where a stage tells how far it is. Draws nothing where stderr is no terminal.
#[derive(Debug, Clone, Default)]
pub struct Progress {}
