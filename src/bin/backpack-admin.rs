//! `backpack-admin`, and the original's admin commands through links: wiring only.

use std::process::ExitCode;

use backpack::{admin, daemon, telemetry};

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
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    code
}
