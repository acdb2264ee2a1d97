//! What operators see: logs, metrics, health.
//!
//! - [`log`]: human or JSON lines
//! - [`metrics`]: the Prometheus recorder behind `/-/metrics`
//! - [`health`]: named conditions behind `/-/ready`

pub mod health;
pub mod log;
pub mod metrics;
