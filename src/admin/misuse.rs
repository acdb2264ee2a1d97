//! A command that was called in the wrong way, found after its arguments were read one by one.

/// What is wrong with the call. The program then exits with 2, as for arguments that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);
