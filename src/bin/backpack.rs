//! `backpack`: the whole system on one machine. Wiring only; the body is `backpack::standalone`.

use std::process::ExitCode;

use backpack::{
    daemon::{
        Shutdown,
        program::{self, Processors},
        shutdown::DEFAULT_DRAIN,
    },
    standalone::{self, Config},
    telemetry::log::LogArgs,
};
use clap::{CommandFactory, FromArgMatches, Parser};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sharded store for very many small files: the whole system in one process, with nothing else installed
#[derive(Parser)]
#[command(version, after_help = "Example:\n  backpack --data ./backpack-data --listen 127.0.0.1:12001")]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    // Whoever starts this wants to see what to try, not each part's start: only warnings, unless asked.
    let command = Args::command().mut_arg("log", |log| log.default_value("warn"));
    let args = Args::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    program::run(&args.log, Processors::default(), async move {
        let shutdown = Shutdown::on_signal(DEFAULT_DRAIN)?;
        standalone::run(args.config, shutdown).await
    })
}
