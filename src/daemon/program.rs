//! The body of every program's `main`: logging, metrics, the runtime, the exit code.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::telemetry::{self, log::LogArgs};

/// Runs a program to its end. Exit code 0, or 1 with the error's whole chain on standard error; misuse (exit code 2)
/// is what the argument parser answers before this. `threads` do its work; `None`: one for each core.
pub fn run(
    log: &LogArgs,
    threads: Option<usize>,
    body: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    if let Err(error) = telemetry::log::init(log) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    raise_open_files();
    make_room_for_open_files();
    keep_to_small_pages();
    super::install_tls_provider();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        telemetry::metrics::install();
        body.await
    });
    // Blocking work that hangs (a dead disk) must not hold up the end of the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Memory in pages of 4 KiB. The allocator asks the kernel for such of 2 MiB, all of which is taken as soon as a byte of it is used:
/// with thousands of connections, whose buffers are never full, that is twice the memory.
fn keep_to_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!("keep to pages of 4 KiB: {error}");
    }
}

/// As many open files as we may have: each connection and each volume is one. What a login gives, 1,024, is a limit for
/// programs that use `select`.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("raise the limit of open files from {:?}: {error}", limit.current);
    }
}

/// Connections of a listener and of its clients, and files: more than most processes ever have open. A quarter of a MiB in the kernel.
const USUAL_OPEN_FILES: u64 = 32 << 10;

/// Makes the kernel's table of our open files large now. It doubles when it is full, and a program with threads stands still
/// for 7 to 20 ms each time (measured): while its connections double, which is when many come at once.
fn make_room_for_open_files() {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(USUAL_OPEN_FILES);
    let last = allowed.min(USUAL_OPEN_FILES).saturating_sub(1) as i32;
    // The table reaches to the file of the greatest number, and stays so.
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), last) {
        tracing::debug!("make room for {last} open files: {error}");
    }
}
