//! What every long-running role needs: being told to stop, waiting between tries, a clock.
//!
//! - [`shutdown`]: stop as a value that is passed
//! - [`backoff`]: how long to wait before the next try
//! - [`clock`]: wall-clock milliseconds, and versions that never go back
//! - [`lock`]: a file that one process at a time has
//! - [`program`]: the body of every `main`
//! - [`secret`]: passwords from the environment or a file, never from the command line

pub mod backoff;
pub mod clock;
pub mod lock;
pub mod program;
pub mod secret;
pub mod shutdown;

pub use backoff::Backoff;
pub use clock::{VersionClock, unix_ms};
pub use lock::LockedFile;
pub use shutdown::Shutdown;

/// Chooses the process's TLS implementation. Two drivers bring one each, and rustls panics at the first connection unless
/// one is chosen: every program and every test that connects calls this first. Calling it twice is harmless.
pub fn install_tls_provider() {
    // The error says that a provider is installed already, which is what was wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
