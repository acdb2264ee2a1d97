//! Power cuts: every change to a directory is recorded, and what a power cut could leave of it at any moment is built.
//!
//! - `recorder`: the changes, in order; it makes them fail too

pub mod recorder;
