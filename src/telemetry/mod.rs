//! What operators see: logs, metrics, health.
//!
//! - [`log`]: human or JSON lines
//! - [`metrics`]: the Prometheus recorder behind `/-/metrics`
//! - [`Kept`]: metrics with labels, at hand
//! - [`health`]: named conditions behind `/-/ready`

pub mod health;
mod kept;
pub mod log;
pub mod metrics;

pub use kept::Kept;
