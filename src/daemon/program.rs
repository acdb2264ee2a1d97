//! The body of every program's `main`: logging, metrics, the runtime, the exit code.

use std::{io, process::ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::telemetry::{self, log::LogArgs};

/// How a program uses the processors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processors {
    /// So many threads do its work; `None`: one for each core.
    pub threads: Option<usize>,
    /// What comes for it does not interrupt others that are at work: `SCHED_BATCH` of sched(7), unless it was started with something
    /// else than the usual. It waits for the others' turns at most, and not at all where a processor is idle
    /// (docs/decisions/0024).
    pub lets_others_finish: bool,
}

/// Runs a program to its end. Exit code 0, or 1 with the error's whole chain on standard error; misuse (exit code 2)
/// is what the argument parser answers before this.
pub fn run(
    log: &LogArgs,
    processors: Processors,
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
    if processors.lets_others_finish {
        let_others_finish();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = processors.threads {
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

/// Has the calling thread, and those that it begins, not interrupt others.
fn let_others_finish() {
    #[expect(unsafe_code, reason = "all zeros are parameters, and the kernel only reads them")]
    let answered = unsafe {
        match libc::sched_getscheduler(0) {
            libc::SCHED_OTHER => libc::sched_setscheduler(0, libc::SCHED_BATCH, &std::mem::zeroed()),
            chosen_or_failed => chosen_or_failed,
        }
    };
    if answered < 0 {
        tracing::debug!("let others finish: {}", io::Error::last_os_error());
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
