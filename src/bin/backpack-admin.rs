//! `backpack-admin`, and the original's admin commands through links: wiring only.

use std::process::ExitCode;

use backpack::{admin, daemon, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match admin::Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::log::init(&cli.log) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    daemon::install_tls_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(admin::run(cli));
    // Its threads end with the process: a name that is still being looked up must not hold up the end, and the ZooKeeper
    // client panics where its task is dropped before the one that waits for its watch.
    std::mem::forget(runtime);
    code
}
